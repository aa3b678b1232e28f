"""The objective's own state moves once per rollout, after all updates made from it."""

from __future__ import annotations

import pytest
import torch

import rlalign
from rlalign.objective import Batch, NonFiniteError, Objective, ObjectiveState
from rlalign.training import learner
from rlalign.training.update_buffer import Buffer


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_every_update_of_a_rollout_uses_the_coefficient_from_before_it(tmp_path, monkeypatch, where):
    used, policy_loss = [], learner.policy_loss

    def spied(objective, batch, *, state, finite):
        used.append(state.kl_coef)
        return policy_loss(objective, batch, state=state, finite=finite)

    monkeypatch.setattr(learner, "policy_loss", spied)
    run = rlalign.train(
        env="reverse",
        policy="gru",
        algorithm="grpo",
        steps=2,
        output=str(tmp_path / where),
        quiet=True,
        evaluation__prompts=4,
        learner__minibatches=2,
        objective__kl__where=where,
        objective__kl__coef=0.5,
        objective__kl__target=1.0,
        objective__kl__horizon=256,
    )
    logged = run.metrics["train/kl_coef"]
    assert used == [0.5, 0.5, logged[1], logged[1]]
    assert logged[0] == 0.5
    assert logged[1] == pytest.approx(0.45, abs=1e-3)  # the start has no KL: 0.5 · (1 - 0.2 · 128 / 256)


def test_a_batch_that_is_not_finite_does_not_hide_what_the_update_said_of_it(monkeypatch):
    """The last update of a rollout diverged, and the objective's state cannot take the same batch in either."""
    batch = Batch(
        action_mask=torch.ones(2, 3, dtype=torch.bool),
        rewards=torch.zeros(2),
        group_ids=torch.zeros(2, dtype=torch.int64),
        terminated=torch.ones(2, dtype=torch.bool),
        truncated=torch.zeros(2, dtype=torch.bool),
        sampler_logprobs=torch.full((2, 3), torch.nan),
    )
    made = learner.Learner.__new__(learner.Learner)
    made.objective, made.state = Objective(), ObjectiveState.start(Objective())

    def diverged(*_, **__):
        raise learner.DivergedError("loss nan")

    monkeypatch.setattr(made, "_update", diverged)
    whole = torch.arange(2)
    with pytest.raises(learner.DivergedError, match="loss nan"):
        made.update(Buffer(whole, whole, batch.action_mask, batch, [whole]))
    assert made.state.steps == 1  # counted, though not taken in


def test_only_a_reward_is_told_where_a_failed_reward_belongs():
    assert "valid" in str(NonFiniteError("rewards", [0]))
    assert "valid" not in str(NonFiniteError("ref_logprobs", [0]))
