"""Correction for multiple tests, and the smallest difference that a test can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import optimize, stats

from rlalign.compare.analysis.intervals import ALPHA

POWER = 0.8


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values with Holm's step-down adjustment, in the order given.

    The adjusted values control the family-wise error rate under arbitrary dependence between the tests. NaN stays NaN
    and does not count as a test.

    Source: Holm (1979).

    Args:
        p: p-values of the tests; NaN: not a test.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted = [math.nan] * len(p)
    largest = 0.0  # adjusted values do not decrease along the order
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def unbiased_se(se: float, df: float) -> float:
    """Return a standard error without the bias of the square root of a variance estimate.

    For normal data the square root is too small, by 6 % at 4 degrees of freedom::

        E[s] = sigma sqrt(2/df) Γ((df+1)/2) / Γ(df/2)

    Args:
        se: the estimated standard error.
        df: its degrees of freedom; the result is NaN for 0 or less.

    Example:
        >>> round(unbiased_se(1.0, df=4), 2)
        1.06
    """
    if df <= 0:
        return math.nan
    # Logarithms, since the gamma function overflows beyond 171.
    return se / math.exp(0.5 * math.log(2 / df) + math.lgamma((df + 1) / 2) - math.lgamma(df / 2))


def detectable_difference(se: float, df: float, tests: int = 1) -> float:
    """Return the smallest true difference that a two-sided t-test detects in 80 % of studies.

    The level is 5 % / tests, the first and strictest step of Holm's procedure. The power is that of the non-central t
    distribution; it assumes that the estimated standard error is the true one.

    Args:
        se: standard error of the difference. The result is NaN for 0: differences that do not vary do not show how much
            they might.
        df: its degrees of freedom; the result is NaN for 0 or less.
        tests: number of tests of the study; at least 1.
    """
    if math.isnan(se) or se == 0 or df <= 0:
        return math.nan
    critical = float(stats.t.ppf(1 - ALPHA / max(tests, 1) / 2, df))

    def excess_power(shift: float) -> float:
        # One tail only: the other contributes nothing at a power of 80 %.
        return float(stats.nct.sf(critical, df, shift)) - POWER

    high = critical + 1.0
    while excess_power(high) < 0:
        high *= 2
    return se * float(optimize.brentq(excess_power, 0.0, high))
