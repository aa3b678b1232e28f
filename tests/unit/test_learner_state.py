"""The objective's own state moves once per rollout, after all updates made from it."""

from __future__ import annotations

import pytest

import rlalign
from rlalign import learner


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
