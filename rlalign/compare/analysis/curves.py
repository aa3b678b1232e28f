"""What a learning curve says: its mean height, when it reached a threshold, its height at equal KL. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from rlalign.compare.analysis.statistics import Interval, t_interval
from rlalign.types import FloatArray


def area(budget: FloatArray, height: FloatArray, until: float) -> float:
    """Mean height of a curve over [0, until], by trapezoids; NaN points are left out, the last height goes on."""
    seen = np.isfinite(height) & np.isfinite(budget)
    x, y = budget[seen], height[seen]
    if not len(x):
        return math.nan
    if until <= 0:
        return float(y[-1])
    inside = x < until
    ends = np.interp([0.0, until], x, y)
    xs = np.concatenate([[0.0], x[inside & (x > 0)], [until]])
    ys = np.concatenate([ends[:1], y[inside & (x > 0)], ends[1:]])
    return float(np.trapezoid(ys, xs) / until)


def first_reach(budget: FloatArray, height: FloatArray, threshold: float) -> tuple[float, bool]:
    """(budget at the first point at or above the threshold, true), or (all of the budget, false): right-censored."""
    above = np.flatnonzero(np.nan_to_num(height, nan=-np.inf) >= threshold)
    return (float(budget[above[0]]), True) if len(above) else (float(budget[-1]), False)


def survival_median(spent: FloatArray, reached: Sequence[bool]) -> float:
    """Kaplan-Meier median of what it took; NaN when it stays above one half."""
    curve = stats.ecdf(stats.CensoredData.right_censored(spent, ~np.asarray(reached))).sf
    below = np.flatnonzero(curve.probabilities <= 0.5)
    return float(curve.quantiles[below[0]]) if len(below) else math.nan


def restricted_mean(spent: FloatArray, reached: Sequence[bool], until: float) -> Interval:
    """Mean of min(what it took, until).

    `until` is a budget that every run had, so that nothing is censored below it: the area under the Kaplan-Meier curve
    is then this mean, and its interval Student's, cut to where the mean can lie: [0, until]. Where nobody got there by
    then it is `until` and has no interval: all that is known is that it takes more.
    """
    if not np.any(np.asarray(reached) & (spent <= until)):
        return Interval(until, math.nan, math.nan)
    found = t_interval(np.where(np.asarray(reached), np.minimum(spent, until), until))
    low, high = (float(np.clip(edge, 0.0, until)) for edge in (found.low, found.high))
    return Interval(found.value, low, high)


def logrank_p(a: FloatArray, reached_a: Sequence[bool], b: FloatArray, reached_b: Sequence[bool]) -> float:
    """Two-sided p of the log-rank test; NaN when nobody got there."""
    if not (any(reached_a) or any(reached_b)):
        return math.nan
    x = stats.CensoredData.right_censored(a, ~np.asarray(reached_a))
    y = stats.CensoredData.right_censored(b, ~np.asarray(reached_b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(stats.logrank(x, y).pvalue)


def height_at(level: float, along: FloatArray, height: FloatArray) -> float:
    """Height of a curve where it first gets to a level of another quantity (its KL), between points linearly."""
    seen = np.isfinite(along) & np.isfinite(height)
    x, y = along[seen], height[seen]
    past = np.flatnonzero(x >= level)
    if not len(past):
        return math.nan
    i = int(past[0])
    if i == 0 or x[i] == x[i - 1]:
        return float(y[i])
    share = (level - x[i - 1]) / (x[i] - x[i - 1])
    return float(y[i - 1] + share * (y[i] - y[i - 1]))
