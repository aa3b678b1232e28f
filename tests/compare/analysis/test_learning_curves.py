"""Statistics of learning curves against hand-computed values and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlalign.compare.analysis.learning_curves import (
    budget_to_threshold,
    kaplan_meier_median,
    logrank_p,
    normalized_area,
    restricted_mean,
    reward_at_kl,
)


def test_area_threshold_and_reward_at_kl_of_a_polygon() -> None:
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 1.0])
    assert normalized_area(x, y, 20.0) == 0.75
    assert normalized_area(x, y, 5.0) == 0.25
    assert normalized_area(x, y, 40.0) == 0.875  # the last reward continues
    assert normalized_area(x, np.array([0.0, math.nan, 1.0]), 20.0) == 0.5
    assert budget_to_threshold(x, y, 0.9) == (10.0, True)
    assert budget_to_threshold(x, y, 1.0) == (10.0, True)  # equality counts as reached
    assert budget_to_threshold(x, y, 2.0) == (20.0, False)
    assert reward_at_kl(0.5, y, x) == 5.0
    assert math.isnan(reward_at_kl(3.0, y, x))


def test_restricted_mean_equals_area_under_kaplan_meier_curve() -> None:
    spent, reached, until = np.array([3.0, 5.0, 8.0, 8.0, 8.0]), [True, True, False, True, False], 8.0
    curve = stats.ecdf(stats.CensoredData.right_censored(spent, ~np.array(reached))).sf
    at = np.concatenate([[0.0], curve.quantiles[curve.quantiles < until], [until]])
    heights = np.concatenate([[1.0], curve.probabilities[curve.quantiles < until]])
    assert restricted_mean(spent, reached, until).value == pytest.approx(float((np.diff(at) * heights).sum()))
    assert kaplan_meier_median(spent, reached) == 8.0
    assert math.isnan(kaplan_meier_median(np.array([5.0, 5.0]), [False, False]))


def test_interval_of_restricted_mean_is_cut_to_zero_and_the_budget() -> None:
    """Student's interval of these values reaches from below 0 to above 8."""
    cut = restricted_mean(np.array([0.0, 8.0]), [True, True], 8.0)
    assert (cut.low, cut.value, cut.high) == (0.0, 4.0, 8.0)
    never = restricted_mean(np.array([8.0, 8.0]), [False, False], 8.0)
    assert never.value == 8.0
    assert math.isnan(never.low)


def test_logrank_p() -> None:
    never = np.full(5, 9.0)
    assert math.isnan(logrank_p(never, [False] * 5, never, [False] * 5))
    assert logrank_p(np.arange(5.0), [True] * 5, never, [False] * 5) < 0.01
    # five of ten at risk reached it, all in one group: (5 − 2.5)² / (5·5·5·5 / (10·10·9)) = 9 of chi-squared
    assert logrank_p(never, [True] * 5, never, [False] * 5) == pytest.approx(stats.chi2.sf(9, 1))
