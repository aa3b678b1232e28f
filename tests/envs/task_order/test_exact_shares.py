"""Counts of a sequence against the sums of its shares, exactly."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from rlalign.envs.task_order.exact_shares import ExactShares, to_units
from rlalign.errors import UserError


@pytest.mark.parametrize("m", [2, 3, 5, 12, 40])
def test_every_count_is_within_one_of_its_share_at_every_length(m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(6):
        weights = (rng.pareto(1.0, m) + 1e-3).tolist()  # from equal to very unequal
        total = sum(map(Fraction, weights))
        shares, counts = ExactShares(m), [0] * m
        for length in range(1, 801):
            counts[shares.take(weights)] += 1
            for weight, count in zip(weights, counts, strict=True):
                assert abs(count - length * Fraction(weight) / total) < 1


def test_shares_that_change_stay_near_their_sums() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        shares, target, counts = ExactShares(3), np.zeros(3), np.zeros(3)
        old, new = rng.random(3), rng.random(3) * (rng.random(3) < 0.7) + [1e-2, 0, 0]
        for step in range(100):
            weights = (old + (new - old) * step / 99).tolist()
            for _ in range(7):
                target += np.array(weights) / sum(weights)
                counts[shares.take(weights)] += 1
                assert (counts < target + 1 + 1e-9).all()
                assert np.abs(counts - target).max() < 2


def test_a_part_without_a_share_is_never_chosen() -> None:
    shares = ExactShares(3)
    assert {shares.take([1, 1, 0]) for _ in range(9)} == {0, 1}
    assert {shares.take([0, 0, 1]) for _ in range(9)} == {2}
    with pytest.raises(UserError, match="a weight above 0"):
        shares.take([0, 0, 0])


def test_units_sum_to_one_and_keep_small_weights() -> None:
    for weights in ([1.0, 1.0, 1.0], [1e-30, 1.0], [0.7, 0.3], [3, 0, 1]):
        units = to_units(weights)
        assert sum(units) == 2**50
        assert all((unit > 0) == (weight > 0) for unit, weight in zip(units, weights, strict=True))


def test_the_sequence_continues_from_its_state() -> None:
    shares, resumed = ExactShares(3), ExactShares(3)
    weights = [0.5, 0.3, 0.2]
    for _ in range(17):
        shares.take(weights)
    resumed.load_state_dict(json.loads(json.dumps(shares.state_dict())))
    assert [resumed.take(weights) for _ in range(50)] == [shares.take(weights) for _ in range(50)]
