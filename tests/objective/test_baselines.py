"""Baselines and scales against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import Objective, compute_advantages


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 0, 0.5, 0.5]),
        ("batch_mean", [0.5, -0.5, 0, 0]),
        ("group_mean", [0.5, -0.5, 0, 0]),
        ("leave_one_out", [1, -1, 0, 0]),
        ("length_weighted_group_mean", [0.25, -0.75, 0, 0]),
        ("ema", [1 - 1 / 3, -2 / 3, 0, 0]),
    ],
)
def test_baselines_match_hand_computed_numbers(small_batch, first_column, name: str, expected: list[float]) -> None:
    assert first_column(Objective(baseline=name), small_batch()) == pytest.approx(expected, abs=1e-6)


def test_scales_match_hand_computed_numbers(small_batch, first_column) -> None:
    group_std = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)
    assert first_column(group_std, small_batch()) == pytest.approx([0.5**0.5, -(0.5**0.5), 0, 0], abs=1e-6)
    group_mean = Objective(baseline="group_mean", scale="group_mean")
    assert first_column(group_mean, small_batch()) == [1, -1, 0, 0]
    with pytest.raises(UserError, match="0 or more"):
        compute_advantages(group_mean, small_batch(rewards=-torch.ones(4)))
    zero_rewards = small_batch(rewards=torch.zeros(4))
    assert first_column(group_mean, zero_rewards) == [0, 0, 0, 0]


def test_the_batch_standard_deviation_is_of_all_groups(small_batch, first_column) -> None:
    rewards = torch.tensor([1.0, 0.0, 2.0, 6.0])
    values = first_column(Objective(scale="batch_std", scale_eps=0.0), small_batch(rewards=rewards))
    assert values == pytest.approx((rewards / rewards.std()).tolist(), abs=1e-6)


def test_a_large_reward_offset_does_not_change_the_standard_deviation(small_batch, first_column) -> None:
    # E[x²] - mean² in float32 would be off by thousands here
    objective = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)
    b = small_batch()
    assert first_column(objective, replace(b, rewards=b.rewards + 4096)) == first_column(objective, b)
