"""Results over environments: rescaling."""

from __future__ import annotations

from typing import Any

import pytest

from rlalign.compare.analysis.aggregate import aggregate

START = 0.1


def test_rescaled_rewards_are_0_for_the_initial_policy_and_1_for_the_best_seed(decided: Any, noisy: Any) -> None:
    one = decided({"a": noisy(0.9), "b": noisy(0.5, rng=1)}, "one")
    (low, high) = one["one"].reward_scale
    both = aggregate({**one, **{"two": one["one"]}}, ["a", "b"])
    assert both is not None
    assert low == pytest.approx(START)
    for name, reward in (("a", 0.9), ("b", 0.5)):
        assert both.mean[name].value == pytest.approx((reward - START) / ((high or 0.0) - START), abs=0.03)
    assert aggregate(one, ["a", "b"]) is None  # a single environment has no aggregate
