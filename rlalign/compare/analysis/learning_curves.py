"""Statistics of learning curves: normalized area, budget to a threshold, reward at equal KL. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from rlalign.compare.analysis.intervals import Interval
from rlalign.compare.analysis.two_way import t_interval
from rlalign.types import FloatArray


def normalized_area(budget: FloatArray, reward: FloatArray, until: float) -> float:
    """Return the area under a learning curve over [0, until] divided by `until`, by the trapezoidal rule.

    Points with NaN are left out. Beyond the last point the curve continues at the last reward.

    Args:
        budget: budget at each point, ascending.
        reward: reward at each point.
        until: end of the interval; for 0 the last reward is returned.

    Returns:
        The area, in units of the reward; NaN without a point.

    Example:
        >>> normalized_area(np.array([0.0, 10.0]), np.array([0.0, 1.0]), until=20.0)
        0.75
    """
    valid = np.isfinite(reward) & np.isfinite(budget)
    x, y = budget[valid], reward[valid]
    if not len(x):
        return math.nan
    if until <= 0:
        return float(y[-1])
    inside = x < until
    # Interpolate at both ends of the interval; np.interp continues the curve at its first and last value.
    ends = np.interp([0.0, until], x, y)
    xs = np.concatenate([[0.0], x[inside & (x > 0)], [until]])
    ys = np.concatenate([ends[:1], y[inside & (x > 0)], ends[1:]])
    return float(np.trapezoid(ys, xs) / until)


def budget_to_threshold(budget: FloatArray, reward: FloatArray, threshold: float) -> tuple[float, bool]:
    """Return the budget at which a learning curve reaches a threshold, and whether it does.

    Args:
        budget: budget at each point, ascending.
        reward: reward at each point; NaN is below every threshold.
        threshold: reward that counts as reached.

    Returns:
        The budget of the first point at or above the threshold, and true. If no point is, the total budget, which is
        then a right-censored value, and false.

    Example:
        >>> budget_to_threshold(np.array([0.0, 32.0, 64.0]), np.array([0.1, 0.6, 0.9]), threshold=0.5)
        (32.0, True)
    """
    above = np.flatnonzero(np.nan_to_num(reward, nan=-np.inf) >= threshold)
    return (float(budget[above[0]]), True) if len(above) else (float(budget[-1]), False)


def kaplan_meier_median(spent: FloatArray, reached: Sequence[bool]) -> float:
    """Return the Kaplan-Meier median of the budget to a threshold; NaN if the survival curve stays above one half.

    Args:
        spent: budget per seed.
        reached: per seed; false: `spent` is right-censored.

    Example:
        >>> kaplan_meier_median(np.array([10.0, 20.0, 50.0]), [True, True, False])
        20.0
    """
    curve = stats.ecdf(stats.CensoredData.right_censored(spent, ~np.asarray(reached))).sf
    below = np.flatnonzero(curve.probabilities <= 0.5)
    return float(curve.quantiles[below[0]]) if len(below) else math.nan


def restricted_mean(spent: FloatArray, reached: Sequence[bool], until: float) -> Interval:
    """Return the mean of min(budget to a threshold, until), with Student's 95 % interval cut to [0, until].

    Every run must have had the budget `until`, so that no value below it is censored. The mean then equals the area
    under the Kaplan-Meier curve. If no run reached the threshold by then, the mean is `until` and has no interval: the
    data show only that more is needed.

    Args:
        spent: budget per seed.
        reached: per seed; false: `spent` is right-censored.
        until: smallest total budget of all runs.
    """
    if not np.any(np.asarray(reached) & (spent <= until)):
        return Interval(until, math.nan, math.nan)
    mean = t_interval(np.where(np.asarray(reached), np.minimum(spent, until), until))
    low, high = (float(np.clip(bound, 0.0, until)) for bound in (mean.low, mean.high))
    return Interval(mean.value, low, high)


def logrank_p(a: FloatArray, reached_a: Sequence[bool], b: FloatArray, reached_b: Sequence[bool]) -> float:
    """Return the two-sided p-value of the log-rank test; NaN if no run reached the threshold.

    Args:
        a, b: budgets of two algorithms, per seed.
        reached_a, reached_b: per seed; false: right-censored.
    """
    if not (any(reached_a) or any(reached_b)):
        return math.nan
    x = stats.CensoredData.right_censored(a, ~np.asarray(reached_a))
    y = stats.CensoredData.right_censored(b, ~np.asarray(reached_b))
    with np.errstate(invalid="ignore", divide="ignore"):  # the statistic is 0/0 if its variance is 0
        return float(stats.logrank(x, y).pvalue)


def reward_at_kl(level: float, kl: FloatArray, reward: FloatArray) -> float:
    """Return the reward where a learning curve first reaches a KL, linearly interpolated; NaN if it does not.

    Args:
        level: the KL, nats per completion in studies.
        kl: KL at each point, in the unit of `level`; points with NaN are left out.
        reward: reward at each point.

    Example:
        >>> reward_at_kl(1.0, kl=np.array([0.0, 2.0]), reward=np.array([0.0, 0.5]))
        0.25
    """
    valid = np.isfinite(kl) & np.isfinite(reward)
    x, y = kl[valid], reward[valid]
    reached = np.flatnonzero(x >= level)
    if not len(reached):
        return math.nan
    i = int(reached[0])
    if i == 0 or x[i] == x[i - 1]:
        return float(y[i])
    share = (level - x[i - 1]) / (x[i] - x[i - 1])
    return float(y[i - 1] + share * (y[i] - y[i - 1]))
