"""Means of rewards in the two-way layout seeds × prompts, with intervals for new seeds and new prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlalign.compare.analysis.intervals import ALPHA, Interval
from rlalign.types import FloatArray


@dataclass(frozen=True)
class TwoWay:
    """The variance components of the layout seeds × prompts, and the standard error of its grand mean.

    Model, with independent random effects, S seeds s and P prompts p::

        x[s, p] = mean + seed[s] + prompt[p] + rest[s, p]

    With the mean squares `M_S`, `M_P` and `M_E` of the two-way analysis of variance::

        Var(grand mean) = (M_S + M_P − M_E) / (S P)

    Its expectation is var_seed/S + var_prompt/P + var_rest/(S P). If `M_P < M_E`, the variance between prompts is
    estimated as 0 and the variance of the mean as `M_S / (S P)`. Degrees of freedom: Satterthwaite (1946), at least the
    smaller of S − 1 and P − 1.

    All seeds are measured on the same prompts, so an interval over seeds alone would be valid for these prompts only.

    Attributes:
        mean: grand mean.
        se: its standard error, for new seeds and new prompts; NaN for one seed.
        df: degrees of freedom of the standard error; 0 for one seed.
        sd_seed: standard deviation between seeds; 0 if the estimated variance is negative, NaN if the layout does not
            determine it.
        sd_prompt: the same between prompts.
        sd_rest: the same of the residual.
    """

    mean: float
    se: float
    df: float
    sd_seed: float
    sd_prompt: float
    sd_rest: float

    @property
    def interval(self) -> Interval:
        """The 95 % interval mean ± t · se; NaN bounds without degrees of freedom."""
        half = float(stats.t.ppf(1 - ALPHA / 2, self.df)) * self.se if self.df > 0 else math.nan
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def p(self) -> float:
        """Two-sided p-value of the hypothesis that the mean is 0 (t-test)."""
        if self.df <= 0 or math.isnan(self.se):
            return math.nan
        if self.se == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.se, self.df))


def two_way(x: FloatArray) -> TwoWay:
    """Return the variance components of a layout and the standard error of its grand mean.

    Prompts with a missing value are left out. One seed has no interval. One prompt has Student's t-interval over seeds.

    Args:
        x: rewards [S, P], seeds × prompts; NaN is missing.

    Example:
        >>> layout = two_way(np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]))
        >>> layout.mean, layout.sd_seed, round(layout.sd_prompt, 3), layout.sd_rest
        (1.5, 1.0, 0.707, 0.0)
    """
    x = x[:, np.isfinite(x).all(0)]
    s, p = x.shape
    nan = math.nan
    if not p:
        return TwoWay(nan, nan, 0.0, nan, nan, nan)
    mean = float(x.mean())
    if s < 2:
        return TwoWay(mean, nan, 0.0, nan, nan, nan)
    rows = x.mean(1)
    columns = x.mean(0)
    m_s = p * float(((rows - mean) ** 2).sum()) / (s - 1)
    if p < 2:
        return TwoWay(mean, math.sqrt(m_s / s), s - 1.0, math.sqrt(m_s), nan, nan)
    m_p = s * float(((columns - mean) ** 2).sum()) / (p - 1)
    m_e = float(((x - rows[:, None] - columns + mean) ** 2).sum()) / ((s - 1) * (p - 1))
    variance = m_s  # S P times the variance of the grand mean
    df = s - 1.0
    if m_p > m_e:
        variance = m_s + m_p - m_e
        if variance > 0:
            spread = m_s**2 / (s - 1) + m_p**2 / (p - 1) + m_e**2 / ((s - 1) * (p - 1))
            df = max(variance**2 / spread, min(s - 1.0, p - 1.0))
    return TwoWay(
        mean,
        math.sqrt(variance / (s * p)),
        df,
        math.sqrt(max(m_s - m_e, 0.0) / p),
        math.sqrt(max(m_p - m_e, 0.0) / s),
        math.sqrt(m_e),
    )


def t_interval(x: Sequence[float] | FloatArray) -> Interval:
    """Return the mean of independent, normally distributed values with Student's t-interval.

    Args:
        x: values, shape [n]; NaN is left out.

    Example:
        >>> interval = t_interval([1.0, 2.0, 3.0])
        >>> interval.value, round(interval.low, 2), round(interval.high, 2)
        (2.0, -0.48, 4.48)
    """
    values = np.asarray(x, dtype=float)
    return two_way(values[np.isfinite(values)][:, None]).interval
