"""Intervals and tests of few seeds against hand-computed values, scipy, and simulation.

Simulations draw 1,000 studies from a fixed seed; bounds are the promised ones, widened by three standard errors
(0.02 at 95 %), so that a right function fails less than once in 300 seeds and one that covers 90 % cannot pass.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlalign.compare.analysis import curves
from rlalign.compare.analysis import statistics as st

STUDIES = 1000
SLACK = 3 * math.sqrt(0.95 * 0.05 / STUDIES)


def test_the_two_way_layout_is_the_analysis_of_variance_by_hand() -> None:
    x = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])
    # means: rows 2, 5; columns 2, 3, 5.5; grand 3.5
    w = st.two_way(x)
    m_s, m_p, m_e = 3 * 2 * 1.5**2, 2 * (1.5**2 + 0.5**2 + 2**2) / 2, (2 * (0.5**2 + 0.5**2 + 1**2)) / 2
    variance = m_s + m_p - m_e
    assert w.mean == 3.5
    assert w.se == pytest.approx(math.sqrt(variance / 6))
    assert w.sd_seed == pytest.approx(math.sqrt((m_s - m_e) / 3))
    assert w.sd_prompt == pytest.approx(math.sqrt((m_p - m_e) / 2))
    assert w.sd_rest == pytest.approx(math.sqrt(m_e))


def test_one_column_is_students_t() -> None:
    x = np.random.default_rng(0).normal(size=7)
    w = st.two_way(x[:, None])
    low, high = stats.t.interval(0.95, 6, x.mean(), stats.sem(x))
    assert (w.interval.low, w.interval.high) == pytest.approx((low, high))
    assert w.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)


def test_prompts_without_a_reward_are_left_out_and_one_seed_gives_no_interval() -> None:
    w = st.two_way(np.array([[1.0, math.nan, 3.0], [2.0, 5.0, 4.0]]))
    assert w.mean == 2.5
    one = st.two_way(np.array([[1.0, 2.0]]))
    assert one.mean == 1.5
    assert math.isnan(one.interval.low)
    assert math.isnan(one.p)


def test_no_spread_at_all() -> None:
    assert st.two_way(np.zeros((5, 4))).p == 1.0
    assert st.two_way(np.ones((5, 4))).p == 0.0


def test_iqm_and_bootstrap_agree_with_scipy() -> None:
    x = np.random.default_rng(1).normal(size=40)
    ours = st.bootstrap([x], st.iqm)
    assert ours.value == stats.trim_mean(x, 0.25) == pytest.approx(np.sort(x)[10:30].mean())
    theirs = stats.bootstrap(
        (x,),
        lambda v, axis: stats.trim_mean(v, 0.25, axis=axis),
        method="percentile",
        confidence_level=1 - 2 * float(stats.norm.sf(stats.t.ppf(0.975, 39))),
        rng=0,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_strata_are_resampled_apart() -> None:
    """Two environments of constant, different scores: resampled together the mean would spread, apart it cannot."""
    i = st.bootstrap([np.zeros(5), np.ones(5)], lambda x: np.mean(x, axis=-1))
    assert (i.low, i.value, i.high) == (0.5, 0.5, 0.5)


def test_a_bootstrap_of_fewer_than_five_values_gives_no_interval() -> None:
    """The percentile interval of two values covers half of the time: P(the median lies between them)."""
    few = st.bootstrap([np.arange(4.0), np.arange(9.0)], st.iqm)
    assert math.isfinite(few.value)
    assert math.isnan(few.low)
    assert math.isfinite(st.bootstrap([np.arange(5.0)], st.iqm).low)


def test_the_mean_over_environments_has_students_interval() -> None:
    """Kills a bootstrap whose variance lacks n/(n−1): an eighth too narrow at five seeds. 2,000 resamples give 3 %."""
    strata = [k + np.random.default_rng(k).normal(size=5) for k in range(4)]
    i = st.bootstrap(strata, lambda x: np.mean(x, axis=-1))
    error = math.sqrt(sum(x.var(ddof=1) / 5 for x in strata)) / 4
    assert (i.high - i.low) / 2 == pytest.approx(stats.t.ppf(0.975, 16) * error, rel=0.06)


def test_a_profile_is_of_those_above_with_wilsons_interval() -> None:
    """Kills `at or above`, and any other interval."""
    x = np.array([0.0, 1.0, 1.0, 2.0])
    share, low, high = st.profile(x, np.array([0.5, 1.0, 3.0]))
    assert share.tolist() == [0.75, 0.25, 0.0]
    for k, above in enumerate((3, 1, 0)):
        wilson = stats.binomtest(above, 4).proportion_ci(method="wilson")
        assert (low[k], high[k]) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_the_median_over_environments_covers() -> None:
    """Kills the bootstrap that is not smoothed: it covers 0.89 here."""
    rng = np.random.default_rng(0)
    level, spread = (0.0, 0.3, 0.6, 0.8), (0.1, 0.2, 0.2, 0.1)
    truth = float(
        np.median(np.concatenate([m + s * rng.normal(size=200_000) for m, s in zip(level, spread, strict=True)]))
    )
    covered = 0
    for _ in range(STUDIES):
        strata = [m + s * rng.normal(size=5) for m, s in zip(level, spread, strict=True)]
        i = st.bootstrap(strata, lambda x: np.median(x, axis=-1), smooth=True)
        covered += i.low <= truth <= i.high
    assert 0.93 - SLACK <= covered / STUDIES <= 0.97 + SLACK


def test_the_median_of_few_values_says_what_it_covers() -> None:
    i, covers = st.median_interval(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert (i.low, i.value, i.high, covers) == (1.0, 3.0, 5.0, 0.9375)
    few, covers = st.median_interval(np.arange(4.0))  # 87.5 % at most
    assert few.value == 1.5
    assert math.isnan(few.low)
    assert math.isnan(covers)
    wide, covers = st.median_interval(np.arange(10.0))
    assert covers == 0.95
    assert 1 < wide.low < 2  # between the second (97.9 %) and the third (89.1 %) of ten


def test_holm_by_hand() -> None:
    assert st.holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert st.holm([0.6, 0.9]) == [1.0, 1.0]


def test_probability_of_improvement_counts_ties_half() -> None:
    i = st.probability_of_improvement(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert i.value == 0.875
    always = st.probability_of_improvement(np.arange(5.0) + 10, np.arange(5.0))
    assert always.value == always.high == 1.0
    assert 0.5 < always.low < 0.8  # five seeds of each, all apart, are no certainty
    assert math.isnan(st.probability_of_improvement(np.arange(4.0), np.arange(4.0)).low)
    mirrored = st.probability_of_improvement(np.arange(5.0), np.arange(5.0) + 10)
    assert mirrored.high == pytest.approx(1 - always.low)


def test_area_and_reach_on_a_line() -> None:
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 1.0])
    assert curves.area(x, y, 20.0) == 0.75
    assert curves.area(x, y, 5.0) == 0.25
    assert curves.area(x, y, 40.0) == 0.875  # the last height goes on
    assert curves.area(x, np.array([0.0, math.nan, 1.0]), 20.0) == 0.5
    assert curves.first_reach(x, y, 0.9) == (10.0, True)
    assert curves.first_reach(x, y, 1.0) == (10.0, True)  # at the threshold is there
    assert curves.first_reach(x, y, 2.0) == (20.0, False)
    assert curves.height_at(0.5, y, x) == 5.0
    assert math.isnan(curves.height_at(3.0, y, x))


def test_the_restricted_mean_is_the_area_under_kaplan_and_meiers_curve() -> None:
    spent, reached, until = np.array([3.0, 5.0, 8.0, 8.0, 8.0]), [True, True, False, True, False], 8.0
    curve = stats.ecdf(stats.CensoredData.right_censored(spent, ~np.array(reached))).sf
    at = np.concatenate([[0.0], curve.quantiles[curve.quantiles < until], [until]])
    heights = np.concatenate([[1.0], curve.probabilities[curve.quantiles < until]])
    assert curves.restricted_mean(spent, reached, until).value == pytest.approx(float((np.diff(at) * heights).sum()))
    assert curves.survival_median(spent, reached) == 8.0
    assert math.isnan(curves.survival_median(np.array([5.0, 5.0]), [False, False]))


def test_what_it_took_lies_between_nothing_and_the_whole_budget() -> None:
    """Student's interval of these reaches from below 0 to above 8."""
    cut = curves.restricted_mean(np.array([0.0, 8.0]), [True, True], 8.0)
    assert (cut.low, cut.value, cut.high) == (0.0, 4.0, 8.0)
    never = curves.restricted_mean(np.array([8.0, 8.0]), [False, False], 8.0)
    assert never.value == 8.0
    assert math.isnan(never.low)


def test_differences_without_spread_say_nothing_of_what_could_have_been_seen() -> None:
    assert math.isnan(st.detectable(0.0, 4))
    assert st.detectable(1e-3, 4) > 0


def test_two_that_never_got_there_give_no_p() -> None:
    never = np.full(5, 9.0)
    assert math.isnan(curves.logrank_p(never, [False] * 5, never, [False] * 5))
    assert curves.logrank_p(np.arange(5.0), [True] * 5, never, [False] * 5) < 0.01
    # five of ten at risk got there, all in one group: (5 − 2.5)² / (5·5·5·5 / (10·10·9)) = 9 of chi-squared
    assert curves.logrank_p(never, [True] * 5, never, [False] * 5) == pytest.approx(stats.chi2.sf(9, 1))


@pytest.mark.parametrize("sd", [(1.0, 0.1, 0.1), (0.1, 1.0, 0.3), (0.3, 0.3, 1.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("seeds", [5, 10])
def test_the_interval_of_a_mean_covers(sd: tuple[float, float, float], seeds: int) -> None:
    """Kills an interval over seeds alone: with (0.1, 1, 0.3) it covers less than half."""
    rng = np.random.default_rng(seeds)
    a, b, e = (
        s * rng.normal(size=n)
        for s, n in zip(sd, ((STUDIES, seeds, 1), (STUDIES, 1, 32), (STUDIES, seeds, 32)), strict=True)
    )
    covered = np.mean([abs(w.mean) <= w.interval.high - w.mean for w in map(st.two_way, a + b + e)])
    assert 0.93 - SLACK <= covered <= 0.97 + SLACK


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_of_iqm_median_and_improvement_cover(seeds: int) -> None:
    """Kills the plain percentile interval (0.90 at five seeds)."""
    rng = np.random.default_rng(seeds)
    x, y = rng.normal(size=(STUDIES, seeds)), rng.normal(size=(STUDIES, seeds))
    superior = float(stats.norm.cdf(1 / math.sqrt(2)))
    intervals = {
        "iqm": ([st.bootstrap([v], st.iqm) for v in x], 0.0),
        "median": ([st.median_interval(v)[0] for v in x], 0.0),
        "improvement": ([st.probability_of_improvement(v + 1, w) for v, w in zip(x, y, strict=True)], superior),
    }
    for name, (found, truth) in intervals.items():
        covered = np.mean([i.low <= truth <= i.high for i in found])
        assert 0.93 - SLACK <= covered <= 0.97 + SLACK, name


def test_four_equal_algorithms_on_two_environments_are_told_apart_in_at_most_5_percent_of_studies() -> None:
    """Kills a verdict without correction: twelve tests at 5 % make a false claim in about a third of studies."""
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(STUDIES):
        p = []
        for _ in range(2):
            runs = 0.3 * rng.normal(size=(4, 5, 1)) + rng.normal(size=(4, 5, 16))
            p += [st.two_way(a - b).p for a, b in itertools.combinations(runs, 2)]
        claimed += min(st.holm(p)) < 0.05
    assert claimed / STUDIES <= 0.05 + SLACK


@pytest.mark.parametrize(("seeds", "tests"), [(5, 1), (10, 1), (10, 6)])
def test_a_difference_of_the_detectable_size_is_found_in_80_percent_of_studies(seeds: int, tests: int) -> None:
    rng = np.random.default_rng(seeds)
    true = st.detectable(0.5 / math.sqrt(seeds), seeds - 1, tests)
    studies = [st.two_way(true + 0.5 * rng.normal(size=(seeds, 1))) for _ in range(STUDIES)]
    found = np.mean([w.p < 0.05 / tests for w in studies])
    assert 0.8 - 0.04 <= found <= 0.8 + 0.04
    printed = np.mean([st.detectable(st.unbiased(w.se, w.df), w.df, tests) for w in studies[:300]])
    assert printed == pytest.approx(true, rel=0.06)
