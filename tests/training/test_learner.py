"""Updates of the objective's state: once per rollout, after all updates of the policy from it."""

from __future__ import annotations

import pytest
import torch

import rlalign
from rlalign.objective import Batch, NonFiniteError, Objective, ObjectiveState
from rlalign.training import learner
from rlalign.training.update_buffer import UpdateBuffer


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_all_updates_of_a_rollout_use_the_kl_coefficient_from_before_the_rollout(tmp_path, monkeypatch, where):
    used = []
    policy_loss = learner.policy_loss

    def recording(objective, batch, *, state, finite):
        used.append(state.kl_coef)
        return policy_loss(objective, batch, state=state, finite=finite)

    monkeypatch.setattr(learner, "policy_loss", recording)
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
    assert logged[1] == pytest.approx(0.45, abs=1e-3)  # the initial policy has zero KL: 0.5 · (1 - 0.2 · 128 / 256)


def test_a_batch_with_nan_counts_as_a_step_and_does_not_raise_at_the_end_of_its_rollout():
    """Its update was skipped and reported; the objective's state cannot be updated from the same batch either."""
    batch = Batch(
        action_mask=torch.ones(2, 3, dtype=torch.bool),
        rewards=torch.zeros(2),
        group_ids=torch.zeros(2, dtype=torch.int64),
        terminated=torch.ones(2, dtype=torch.bool),
        truncated=torch.zeros(2, dtype=torch.bool),
        sampler_logprobs=torch.full((2, 3), torch.nan),
    )
    unbuilt = learner.Learner.__new__(learner.Learner)
    unbuilt.objective, unbuilt.state = Objective(), ObjectiveState.start(Objective())

    rows = torch.arange(2)
    unbuilt.end_rollout(UpdateBuffer(rows, rows, batch.action_mask, batch, [rows]))
    assert unbuilt.state.steps == 1
    assert unbuilt.state.ema is None


def test_only_the_error_about_rewards_mentions_the_valid_mask():
    assert "valid" in str(NonFiniteError("rewards", [0]))
    assert "valid" not in str(NonFiniteError("ref_logprobs", [0]))
