"""The mean of values of independent prompts with its t-interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlalign.types import FloatArray


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its confidence interval.

    Attributes:
        mean: NaN without a finite value.
        low: lower bound of the interval; NaN with fewer than two finite values.
        high: upper bound of the interval.
        n: number of finite values.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: FloatArray, level: float = 0.95) -> MeanInterval:
    """Return the mean of independent values and its interval by Student's t, with s the standard deviation (n - 1).

    ::

        mean ± t((1 + level)/2, n - 1) · s / √n

    Args:
        values: float [P]; NaN and infinities are left out.
        level: coverage, in (0, 1).

    Example:
        >>> import numpy as np
        >>> interval = mean_interval(np.array([0.0, 1.0, 2.0, np.nan]))
        >>> print(f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}], n = {interval.n}")
        1.00 [-1.48, 3.48], n = 3
    """
    from scipy import stats

    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:  # no standard deviation
        return MeanInterval(mean, math.nan, math.nan, n)
    standard_error = float(values.std(ddof=1) / math.sqrt(n))
    half_width = float(stats.t.ppf((1 + level) / 2, n - 1)) * standard_error
    return MeanInterval(mean, mean - half_width, mean + half_width, n)
