"""The state of an objective: adaptive beta, moving average, value pretraining, checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlalign.objective import KL, Credit, Objective, ObjectiveState, Value


def test_state_survives_a_round_trip(small_batch, first_column) -> None:
    objective = Objective(baseline="ema", kl=KL("reward", 0.1, target=1.0, horizon=8))
    state = ObjectiveState.start(objective)
    state.update(objective, small_batch())
    other = ObjectiveState.start(objective)
    other.load_state_dict(state.state_dict())
    assert other == state
    assert state.kl_coef == pytest.approx(0.1 * (1 + 0.125 * 4 / 8))  # KL 4.5 / 4 nats against a target of 1
    without_kl = replace(objective, kl=KL())
    state = ObjectiveState(0.0, ema=0.25)
    assert first_column(without_kl, small_batch(), state=state) == [0.75, -0.25, 0.25, 0.25]


def test_failed_rows_do_not_enter_the_adaptive_kl(small_batch) -> None:
    objective = Objective(kl=KL("reward", 0.1, target=1.0, horizon=8))
    state = ObjectiveState.start(objective)
    ref = torch.full((4, 3), -1.5)
    ref[0] = -100.0
    # KL of rows 1 to 3: 0.5, 1 and 1.5 nats, which is the target
    state.update(objective, small_batch(ref_logprobs=ref, valid=torch.tensor([False, True, True, True])))
    assert state.kl_coef == pytest.approx(0.1)


def test_moving_average_follows_the_mean_return(small_batch) -> None:
    objective = Objective(baseline="ema", ema_decay=0.9)
    state = ObjectiveState(0.0)
    state.update(objective, small_batch())
    assert state.ema == 0.5
    state.update(objective, small_batch(rewards=torch.ones(4)))
    assert state.ema == pytest.approx(0.55)
    state.update(objective, small_batch(valid=torch.zeros(4, dtype=torch.bool)))
    assert state.ema == pytest.approx(0.55)
    assert state.steps == 3


def test_value_pretraining_lasts_for_pretrain_steps(small_batch) -> None:
    objective = Objective(baseline="value", credit=Credit("gae"), value=Value("head", pretrain_steps=2))
    state = ObjectiveState.start(objective)
    pretraining = []
    for _ in range(4):
        pretraining.append(state.pretraining(objective))
        state.update(objective, small_batch())
    assert pretraining == [True, True, False, False]
    assert not ObjectiveState.start(Objective()).pretraining(Objective())
