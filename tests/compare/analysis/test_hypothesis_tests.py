"""Holm's correction and detectable differences, against hand-computed values and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlalign.compare.analysis.hypothesis_tests import detectable_difference, holm, unbiased_se
from rlalign.compare.analysis.two_way import two_way

STUDIES = 1000
SLACK = 3 * math.sqrt(0.95 * 0.05 / STUDIES)  # three standard errors of a share of 5 %


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_constant_differences_have_no_detectable_difference() -> None:
    assert math.isnan(detectable_difference(0.0, 4))
    assert detectable_difference(1e-3, 4) > 0


def test_equal_algorithms_give_a_false_claim_in_at_most_5_percent_of_studies() -> None:
    """Four algorithms, two environments. Without correction, twelve tests at 5 % claim in about a third of studies."""
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(STUDIES):
        p = []
        for _ in range(2):
            runs = 0.3 * rng.normal(size=(4, 5, 1)) + rng.normal(size=(4, 5, 16))
            p += [two_way(a - b).p for a, b in itertools.combinations(runs, 2)]
        claimed += min(holm(p)) < 0.05
    assert claimed / STUDIES <= 0.05 + SLACK


@pytest.mark.parametrize(("seeds", "tests"), [(5, 1), (10, 1), (10, 6)])
def test_a_difference_of_detectable_size_is_claimed_in_80_percent_of_studies(seeds: int, tests: int) -> None:
    rng = np.random.default_rng(seeds)
    true = detectable_difference(0.5 / math.sqrt(seeds), seeds - 1, tests)
    studies = [two_way(true + 0.5 * rng.normal(size=(seeds, 1))) for _ in range(STUDIES)]
    power = np.mean([w.p < 0.05 / tests for w in studies])
    assert 0.8 - 0.04 <= power <= 0.8 + 0.04
    printed = np.mean([detectable_difference(unbiased_se(w.se, w.df), w.df, tests) for w in studies[:300]])
    assert printed == pytest.approx(true, rel=0.06)
