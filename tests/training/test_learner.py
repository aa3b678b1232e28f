"""The objective's own state moves once per rollout, after all updates made from it."""

from __future__ import annotations

import pytest
import torch

import rlalign
from rlalign.objective import Batch, NonFiniteError, Objective, ObjectiveState
from rlalign.training import learner
from rlalign.training.update_buffer import UpdateBuffer


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


def test_a_batch_that_is_not_finite_is_counted_and_raises_nothing_at_the_end_of_its_rollout():
    """Its update was skipped and reported; the objective's state cannot be updated from the same batch either."""
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

    rows = torch.arange(2)
    made.end_rollout(UpdateBuffer(rows, rows, batch.action_mask, batch, [rows]))
    assert made.state.steps == 1
    assert made.state.ema is None


def test_only_a_reward_is_told_where_a_failed_reward_belongs():
    assert "valid" in str(NonFiniteError("rewards", [0]))
    assert "valid" not in str(NonFiniteError("ref_logprobs", [0]))
