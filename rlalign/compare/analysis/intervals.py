"""Point estimates with 95 % confidence intervals for few seeds: pure functions on arrays.

The usual percentile bootstrap covers 90 % instead of 95 % at five to ten seeds, so these intervals are others.
benchmarks/statistics_coverage.py prints the coverage of each in simulation, and docs/concepts/comparing.md lists it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from rlalign.types import FloatArray

LEVEL = 0.95
ALPHA = 1 - LEVEL
FEWEST_SEEDS = 5
"""Fewest seeds for naming a winner, and for intervals of anything but means: below, their coverage is too low."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % confidence interval; NaN where the data do not determine one.

    Attributes:
        value: the estimate.
        low: lower bound of the interval.
        high: upper bound of the interval.
    """

    value: float
    low: float
    high: float


def iqm(x: FloatArray) -> FloatArray:
    """Return the interquartile mean over the last axis.

    A quarter of the values, rounded down, is removed at each end. Source: Agarwal et al., arXiv 2108.13264.

    Args:
        x: values, shape [..., n]; the result has shape [...].

    Example:
        >>> float(iqm(np.array([0.0, 1.0, 2.0, 100.0])))
        1.5
    """
    means: FloatArray = stats.trim_mean(x, 0.25, axis=-1)
    return means


def bootstrap(
    strata: Sequence[FloatArray], statistic: Callable[[FloatArray], FloatArray], *, smooth: bool = False
) -> Interval:
    """Return a statistic of pooled values with its stratified, expanded percentile bootstrap interval.

    Estimator: values are resampled with replacement within each stratum (an environment), 2,000 times. With few values
    the percentile interval is too narrow for two reasons: its quantiles are normal, and the bootstrap's variance lacks
    the factor n/(n−1). It is therefore read at the level a', with n the size of the smallest stratum::

        z(a') = sqrt(n/(n−1)) t(a, sum over the strata of (n−1))

    In one stratum the factor sqrt(n/(n−1)) is left out: the few values that a resampled IQM can take make up for it.

    Assumptions: values are independent, and identically distributed within a stratum. Below FEWEST_SEEDS values per
    stratum there is no interval, since its coverage is too low (50 % at most for two values).

    Source: Hesterberg (2015), The American Statistician 69, section 5.3.

    Args:
        strata: values per environment, each of shape [n].
        statistic: function of an array that reduces its last axis, such as `iqm`.
        smooth: add normal noise with standard deviation s/sqrt(n) of the stratum to each resampled value (Hesterberg
            2015). Needed for a median, whose bootstrap distribution has few values: its interval covers 0.89 at five
            seeds without the noise.
    """
    pooled = np.concatenate(list(strata))
    value = float(statistic(pooled))
    n = min(len(x) for x in strata)
    if n < FEWEST_SEEDS:
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(0)  # a fixed seed: the same data give the same interval
    resampled = [x[rng.integers(0, len(x), (_RESAMPLES, len(x)))] for x in strata]
    if smooth:
        scales = [x.std(ddof=1) / math.sqrt(len(x)) for x in strata]
        resampled = [x + scale * rng.normal(size=x.shape) for x, scale in zip(resampled, scales, strict=True)]
    samples = np.concatenate(resampled, axis=1)
    quantile = stats.t.ppf(1 - ALPHA / 2, sum(len(x) - 1 for x in strata))
    factor = math.sqrt(n / (n - 1)) if len(strata) > 1 else 1.0
    tail = float(stats.norm.sf(factor * quantile))
    low, high = np.quantile(statistic(samples), [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def median_interval(x: FloatArray) -> tuple[Interval, float]:
    """Return the median with the interval between order statistics, and the coverage of that interval.

    Estimator: the order statistics `x[d]` and `x[n+1−d]`, counted from 1, interpolated between two d to 95 %::

        P(x[d] <= median <= x[n+1−d]) = 1 − 2 P(Binomial(n, 1/2) < d)

    Assumptions: values are independent and identically distributed; their distribution is arbitrary. Five values reach
    93.75 % at most. Fewer than FEWEST_SEEDS have no interval (four reach 87.5 %).

    Source: Hettmansperger and Sheather (1986).

    Args:
        x: values, shape [n].

    Returns:
        The median with its interval, and the coverage, which is 0.95, less at five values, and NaN below FEWEST_SEEDS.
    """
    x = np.sort(x)
    n = len(x)
    median = float(np.median(x)) if n else math.nan
    if n < FEWEST_SEEDS:
        return Interval(median, math.nan, math.nan), math.nan

    def coverage(d: int) -> float:
        return float(1 - 2 * stats.binom.cdf(d - 1, n, 0.5))

    # The d-th value from either end, for the largest d (shortest interval) that reaches the level.
    d = max((k for k in range(1, n // 2 + 1) if coverage(k) >= LEVEL), default=0)
    if d == 0:
        return Interval(median, float(x[0]), float(x[-1])), coverage(1)
    share = (coverage(d) - LEVEL) / (coverage(d) - coverage(d + 1))
    weight = (n - d) * share / (d + (n - 2 * d) * share)
    low = (1 - weight) * x[d - 1] + weight * x[d]
    high = (1 - weight) * x[n - d] + weight * x[n - d - 1]
    return Interval(median, float(low), float(high)), LEVEL


def probability_of_improvement(a: FloatArray, b: FloatArray) -> Interval:
    """Return P(A > B) + P(A = B)/2 over all pairs of a value of each, with its interval.

    Estimator: the share of pairs (Mann-Whitney). The interval has as its bounds the solutions θ of::

        |estimate − θ| = z sqrt(V(θ))
        V(θ) = θ(1−θ) [1 + (N−1) ((1−θ)/(2−θ) + θ/(1+θ))] / (n m),   N = (n + m)/2

    It has positive length even if all values of one algorithm are above all of the other.

    Assumptions: values are independent within and between the samples. Below FEWEST_SEEDS values of either there is no
    interval: at three of each it covers 0.89.

    Source: Newcombe (2006), Statistics in Medicine 25, method 5.

    Args:
        a: values of the first algorithm, shape [n].
        b: values of the second, shape [m].

    Example:
        >>> probability_of_improvement(np.array([1.0, 2.0]), np.array([0.0, 1.0])).value
        0.875
    """
    n, m = len(a), len(b)
    if not n or not m:
        return Interval(math.nan, math.nan, math.nan)
    signs = np.sign(a[:, None] - b)  # [n, m]: 1 for a win, 0 for a tie, −1 for a loss
    value = float((signs + 1).mean() / 2)
    if min(n, m) < FEWEST_SEEDS:
        return Interval(value, math.nan, math.nan)
    z = float(stats.norm.ppf(1 - ALPHA / 2))
    mean_size = (n + m) / 2

    def excess(theta: float) -> float:
        inner = 1 + (mean_size - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * inner / (n * m)

    margin = 1e-9  # at 0 and 1 the equation has a second root that is not a bound
    low = 0.0 if value == 0 else float(optimize.brentq(excess, 0.0, min(value, 1 - margin)))
    high = 1.0 if value == 1 else float(optimize.brentq(excess, max(value, margin), 1.0))
    return Interval(value, low, high)


def profile(x: FloatArray, tau: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the share of values above each threshold, and the bounds of its pointwise interval.

    Estimator: the sample proportion with Wilson's 95 % score interval. Assumption: values are independent.

    Source: Wilson (1927); performance profiles: Agarwal et al., arXiv 2108.13264.

    Args:
        x: values, shape [n].
        tau: thresholds, shape [T].

    Returns:
        (share, low, high), each of shape [T].
    """
    n = len(x)
    share = (x[:, None] > tau).mean(0)
    z2 = float(stats.norm.ppf(1 - ALPHA / 2)) ** 2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return share, center - half, center + half
