"""Intervals for few seeds against hand-computed values, scipy, and simulation.

Simulations draw 1,000 studies from a fixed seed. Bounds are the promised coverages widened by three standard errors
(0.02 at 95 %): a correct function fails for less than one in 300 seeds, and one that covers 90 % cannot pass.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlalign.compare.analysis.intervals import bootstrap, iqm, median_interval, probability_of_improvement, profile

STUDIES = 1000
SLACK = 3 * math.sqrt(0.95 * 0.05 / STUDIES)


def test_iqm_and_bootstrap_agree_with_scipy() -> None:
    x = np.random.default_rng(1).normal(size=40)
    ours = bootstrap([x], iqm)
    assert ours.value == stats.trim_mean(x, 0.25) == pytest.approx(np.sort(x)[10:30].mean())
    theirs = stats.bootstrap(
        (x,),
        lambda v, axis: stats.trim_mean(v, 0.25, axis=axis),
        method="percentile",
        confidence_level=1 - 2 * float(stats.norm.sf(stats.t.ppf(0.975, 39))),
        rng=0,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_strata_are_resampled_separately() -> None:
    """Two environments of constant, different scores: the mean varies only if they are resampled together."""
    i = bootstrap([np.zeros(5), np.ones(5)], lambda x: np.mean(x, axis=-1))
    assert (i.low, i.value, i.high) == (0.5, 0.5, 0.5)


def test_the_quantiles_of_the_bootstrap_are_those_of_students_t(monkeypatch: pytest.MonkeyPatch) -> None:
    """The degrees of freedom are those of all strata; several strata get the factor sqrt(n / (n - 1))."""
    tails = []

    def quantile(x: np.ndarray, q: list[float]) -> np.ndarray:
        tails.append(q[0])
        return np.array([q[0], 1 - q[0]])

    monkeypatch.setattr(np, "quantile", quantile)
    bootstrap([np.arange(5.0)], iqm)
    bootstrap([np.arange(5.0), np.arange(7.0)], iqm)
    assert tails[0] == pytest.approx(stats.norm.sf(stats.t.ppf(0.975, 4)))
    assert tails[1] == pytest.approx(stats.norm.sf(math.sqrt(5 / 4) * stats.t.ppf(0.975, 10)))


def test_bootstrap_of_fewer_than_five_values_has_no_interval() -> None:
    """The percentile interval of two values covers 50 %: the probability that the median lies between them."""
    few = bootstrap([np.arange(4.0), np.arange(9.0)], iqm)
    assert math.isfinite(few.value)
    assert math.isnan(few.low)
    assert math.isfinite(bootstrap([np.arange(5.0)], iqm).low)


def test_mean_over_environments_has_student_interval() -> None:
    """Fails without the factor n/(n−1): an eighth too narrow at five seeds. 2,000 resamples are exact to 3 %."""
    strata = [k + np.random.default_rng(k).normal(size=5) for k in range(4)]
    i = bootstrap(strata, lambda x: np.mean(x, axis=-1))
    error = math.sqrt(sum(x.var(ddof=1) / 5 for x in strata)) / 4
    assert (i.high - i.low) / 2 == pytest.approx(stats.t.ppf(0.975, 16) * error, rel=0.06)


def test_profile_counts_values_above_with_wilson_interval() -> None:
    """Fails for `at or above`, and for any other interval."""
    x = np.array([0.0, 1.0, 1.0, 2.0])
    share, low, high = profile(x, np.array([0.5, 1.0, 3.0]))
    assert share.tolist() == [0.75, 0.25, 0.0]
    for k, above in enumerate((3, 1, 0)):
        wilson = stats.binomtest(above, 4).proportion_ci(method="wilson")
        assert (low[k], high[k]) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_median_over_environments_covers() -> None:
    """Fails for a bootstrap without smoothing: it covers 0.89 here."""
    rng = np.random.default_rng(0)
    level, spread = (0.0, 0.3, 0.6, 0.8), (0.1, 0.2, 0.2, 0.1)
    truth = float(
        np.median(np.concatenate([m + s * rng.normal(size=200_000) for m, s in zip(level, spread, strict=True)]))
    )
    covered = 0
    for _ in range(STUDIES):
        strata = [m + s * rng.normal(size=5) for m, s in zip(level, spread, strict=True)]
        i = bootstrap(strata, lambda x: np.median(x, axis=-1), smooth=True)
        covered += i.low <= truth <= i.high
    assert 0.93 - SLACK <= covered / STUDIES <= 0.97 + SLACK


def test_median_interval_returns_its_coverage() -> None:
    i, coverage = median_interval(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert (i.low, i.value, i.high, coverage) == (1.0, 3.0, 5.0, 0.9375)
    few, coverage = median_interval(np.arange(4.0))  # 87.5 % at most
    assert few.value == 1.5
    assert math.isnan(few.low)
    assert math.isnan(coverage)
    wide, coverage = median_interval(np.arange(10.0))
    assert coverage == 0.95
    assert 1 < wide.low < 2  # between the second (97.9 %) and the third (89.1 %) of ten


def test_probability_of_improvement_counts_ties_half() -> None:
    i = probability_of_improvement(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert i.value == 0.875
    always = probability_of_improvement(np.arange(5.0) + 10, np.arange(5.0))
    assert always.value == always.high == 1.0
    assert 0.5 < always.low < 0.8  # five seeds of each without overlap leave uncertainty
    assert math.isnan(probability_of_improvement(np.arange(4.0), np.arange(4.0)).low)
    assert math.isnan(probability_of_improvement(np.arange(9.0), np.arange(4.0)).low)  # the smaller sample decides
    mirrored = probability_of_improvement(np.arange(5.0), np.arange(5.0) + 10)
    assert mirrored.high == pytest.approx(1 - always.low)


def test_the_interval_of_a_median_interpolates_between_the_right_order_statistics() -> None:
    """Ten values: the 2nd covers 1 - 22/1024 and the 3rd 1 - 112/1024 (Hettmansperger and Sheather 1986)."""
    share = (1 - 22 / 1024 - 0.95) / (90 / 1024)
    weight = 8 * share / (2 + 6 * share)
    interval, coverage = median_interval(np.arange(10.0))
    assert (interval.low, interval.high) == pytest.approx((1 + weight, 8 - weight))
    assert coverage == 0.95


def test_the_interval_of_newcombe_has_n_less_one() -> None:
    """Five against five without overlap: (1 - t)^2 = z^2 t (1 - t) [1 + 4 ((1 - t)/(2 - t) + t/(1 + t))] / 25."""
    low = probability_of_improvement(np.arange(5.0) + 10, np.arange(5.0)).low
    z2 = stats.norm.ppf(0.975) ** 2
    inner = 1 + 4 * ((1 - low) / (2 - low) + low / (1 + low))
    assert (1 - low) ** 2 == pytest.approx(z2 * low * (1 - low) * inner / 25, rel=1e-6)


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_of_iqm_median_and_improvement_cover(seeds: int) -> None:
    """Fails for the plain percentile interval (0.90 at five seeds)."""
    rng = np.random.default_rng(seeds)
    x, y = rng.normal(size=(STUDIES, seeds)), rng.normal(size=(STUDIES, seeds))
    superior = float(stats.norm.cdf(1 / math.sqrt(2)))
    intervals = {
        "iqm": ([bootstrap([v], iqm) for v in x], 0.0),
        "median": ([median_interval(v)[0] for v in x], 0.0),
        "improvement": ([probability_of_improvement(v + 1, w) for v, w in zip(x, y, strict=True)], superior),
    }
    for name, (estimates, truth) in intervals.items():
        covered = np.mean([i.low <= truth <= i.high for i in estimates])
        assert 0.93 - SLACK <= covered <= 0.97 + SLACK, name
