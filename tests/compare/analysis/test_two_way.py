"""The two-way layout seeds × prompts against hand-computed values, scipy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlalign.compare.analysis.two_way import two_way

STUDIES = 1000
SLACK = 3 * math.sqrt(0.95 * 0.05 / STUDIES)  # three standard errors of a coverage of 95 %


def test_two_way_equals_analysis_of_variance_by_hand() -> None:
    x = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])
    # means: rows 2, 5; columns 2, 3, 5.5; grand 3.5
    w = two_way(x)
    m_s = 3 * 2 * 1.5**2
    m_p = 2 * (1.5**2 + 0.5**2 + 2**2) / 2
    m_e = (2 * (0.5**2 + 0.5**2 + 1**2)) / 2
    variance = m_s + m_p - m_e
    assert w.mean == 3.5
    assert w.se == pytest.approx(math.sqrt(variance / 6))
    assert w.sd_seed == pytest.approx(math.sqrt((m_s - m_e) / 3))
    assert w.sd_prompt == pytest.approx(math.sqrt((m_p - m_e) / 2))
    assert w.sd_rest == pytest.approx(math.sqrt(m_e))


def test_the_degrees_of_freedom_are_satterthwaites() -> None:
    """variance² / (M_s² / (S - 1) + M_p² / (P - 1) + M_e² / ((S - 1)(P - 1))), above the smaller side here."""
    x = np.random.default_rng(3).normal(size=(6, 8)) + 2 * np.arange(8.0) + np.arange(6.0)[:, None]
    s, p = x.shape
    rows, columns = x.mean(1), x.mean(0)
    m_s, m_p = p * rows.var(ddof=1), s * columns.var(ddof=1)
    rest = x - rows[:, None] - columns + x.mean()
    m_e = (rest**2).sum() / ((s - 1) * (p - 1))
    expected = (m_s + m_p - m_e) ** 2 / (m_s**2 / (s - 1) + m_p**2 / (p - 1) + m_e**2 / ((s - 1) * (p - 1)))
    assert expected > 5
    assert two_way(x).df == pytest.approx(expected)


def test_the_degrees_of_freedom_are_at_least_those_of_the_smaller_side() -> None:
    """The rest is subtracted, so that Satterthwaite's formula gives 0.18 here: an interval of 1e6 standard errors."""
    assert two_way(np.array([[4.0, 7.0, -10.0], [-1.0, 4.0, 5.0], [3.0, 6.0, 1.0]])).df == 2.0


def test_one_column_equals_student_t() -> None:
    x = np.random.default_rng(0).normal(size=7)
    w = two_way(x[:, None])
    low, high = stats.t.interval(0.95, 6, x.mean(), stats.sem(x))
    assert (w.interval.low, w.interval.high) == pytest.approx((low, high))
    assert w.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)


def test_prompts_with_missing_rewards_are_left_out_and_one_seed_has_no_interval() -> None:
    w = two_way(np.array([[1.0, math.nan, 3.0], [2.0, 5.0, 4.0]]))
    assert w.mean == 2.5
    one_seed = two_way(np.array([[1.0, 2.0]]))
    assert one_seed.mean == 1.5
    assert math.isnan(one_seed.interval.low)
    assert math.isnan(one_seed.p)


def test_p_of_constant_values() -> None:
    assert two_way(np.zeros((5, 4))).p == 1.0
    assert two_way(np.ones((5, 4))).p == 0.0


@pytest.mark.parametrize("sd", [(1.0, 0.1, 0.1), (0.1, 1.0, 0.3), (0.3, 0.3, 1.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_interval_of_mean_covers(sd: tuple[float, float, float], seeds: int) -> None:
    """Fails for an interval over seeds alone, which covers less than half with (0.1, 1, 0.3)."""
    rng = np.random.default_rng(seeds)
    a, b, e = (
        s * rng.normal(size=n)
        for s, n in zip(sd, ((STUDIES, seeds, 1), (STUDIES, 1, 32), (STUDIES, seeds, 32)), strict=True)
    )
    covered = np.mean([abs(w.mean) <= w.interval.high - w.mean for w in map(two_way, a + b + e)])
    assert 0.93 - SLACK <= covered <= 0.97 + SLACK
