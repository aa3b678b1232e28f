"""Claims about several policies at once: simultaneous intervals, rank sets and cycles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rlalign.feedback.statistics.estimate import LEVEL, Counts, Estimate, detectable, t_quantile
from rlalign.feedback.statistics.intervals import Covariance, Interval
from rlalign.types import BoolArray, FloatArray

SOURCE = "Hothorn, Bretz and Westfall (2008), Biometrical Journal 50:346-363"
RANK_SOURCE = "Mogstad, Romano, Shaikh and Wilhelm (2024), Review of Economic Studies 91:476-518"
_DRAWS = 20_000
_SEED = 0
"""Of the simulated maxima: equal votes give equal intervals."""


@dataclass(frozen=True, slots=True)
class Simultaneous:
    """Intervals that all hold together with probability 95 %.

    Attributes:
        estimates: one per component.
        critical: quantile of the largest |t| among the components.
        interval: "panel" or "population".
    """

    estimates: tuple[Estimate, ...]
    critical: float
    interval: Interval


def critical_value(correlation: FloatArray, df: float) -> float:
    """Return the 95 % quantile of max |T| of a multivariate t distribution, by 20,000 draws with a fixed seed.

    For one component it is Student's quantile.

    Args:
        correlation: [P, P], positive semidefinite.
        df: degrees of freedom, at least 1.
    """
    single = t_quantile((1 + LEVEL) / 2, df)
    if len(correlation) == 1:
        return single
    rng = np.random.default_rng(_SEED)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0))
    normal = rng.standard_normal((_DRAWS, len(correlation))) @ root.T
    chi = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    largest = np.abs(normal).max(1) / chi
    # the error of the simulation must not make an interval narrower than that of a single claim
    return max(single, float(np.quantile(largest, LEVEL)))


def simultaneous(
    values: FloatArray, covariance: Covariance, interval: Interval, *, method: str, source: str = ""
) -> Simultaneous:
    """Return max-t intervals of all components.

    With c the 95 % quantile of max_k |T_k| of a multivariate t distribution with the correlation of the estimates, the
    intervals are value_k ± c · se_k.

    Args:
        values: the components, [P].
        covariance: of them.
        interval: which of its two.
        method: how they are estimated.
        source: its paper.
    """
    se, df = covariance.standard_errors(interval)
    counts = covariance.counts
    name = f"{method}; simultaneous (max-t) for {len(values)} claims, for the {interval} of annotators"
    paper = f"{source}; {SOURCE}" if source else SOURCE
    if not df >= 1 or not np.isfinite(se).all():
        nan = math.nan
        empty = tuple(_estimate(float(v), nan, nan, counts, name, paper) for v in values)
        return Simultaneous(empty, nan, interval)
    matrix = covariance.panel if interval == "panel" else covariance.population
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    critical = critical_value(matrix / np.outer(scale, scale), df)
    estimates = tuple(
        _estimate(float(v), critical, float(error), counts, name, paper, df=df)
        for v, error in zip(values, se, strict=True)
    )
    return Simultaneous(estimates, critical, interval)


def _estimate(
    value: float, critical: float, se: float, counts: Counts, method: str, source: str, *, df: float = math.nan
) -> Estimate:
    found = detectable(se, df) + (critical - t_quantile((1 + LEVEL) / 2, df)) * se
    low, high = value - critical * se, value + critical * se
    return Estimate(value, low, high, found, method, source, counts.prompts, counts.people, counts.votes)


@dataclass(frozen=True, slots=True)
class RankSet:
    """Ranks that a policy can have, 1 being the best, at a simultaneous confidence of 95 %."""

    best: int
    worst: int


def contrasts(number: int) -> tuple[list[tuple[int, int]], FloatArray]:
    """Return all pairs (i, j), i < j, of some components and the matrix of their differences, [pairs, number]."""
    pairs = [(i, j) for i in range(number) for j in range(i + 1, number)]
    matrix = np.zeros((len(pairs), number))
    for row, (i, j) in enumerate(pairs):
        matrix[row, i], matrix[row, j] = 1.0, -1.0
    return pairs, matrix


def rank_sets(pairs: Sequence[tuple[int, int]], differences: Sequence[Estimate], number: int) -> list[RankSet]:
    """Return the ranks that each component can have.

    A component is better than another one if the simultaneous interval of their difference is above 0. Its best rank is
    1 + the number of components that are better, its worst rank is the number of all, less those that are worse.

    Source: Mogstad, Romano, Shaikh and Wilhelm (2024).

    Args:
        pairs: components (i, j) of each difference.
        differences: value_i - value_j with simultaneous intervals; without an interval nothing is known.
        number: of components.
    """
    better = np.zeros((number, number), bool)
    for (i, j), difference in zip(pairs, differences, strict=True):
        better[i, j] = difference.low > 0
        better[j, i] = difference.high < 0
    return [RankSet(1 + int(better[:, i].sum()), number - int(better[i].sum())) for i in range(number)]


def cycles(edges: BoolArray) -> list[tuple[int, ...]]:
    """Return the sets of policies in which each beats another one, directly or not, in a circle.

    Args:
        edges: i beats j, with a simultaneous interval that excludes one half, [P, P].
    """
    number, member = connected_components(csr_array(edges), directed=True, connection="strong")
    sets = [tuple(np.flatnonzero(member == group).tolist()) for group in range(number)]
    return [members for members in sets if len(members) > 1]


def elo(strengths: FloatArray, average: float = 1500.0) -> FloatArray:
    """Return strengths (log odds) on the scale of Elo, average + 400 / ln 10 · θ: a picture, no other estimate.

    Source: Elo (1978), The Rating of Chessplayers.
    """
    return average + 400.0 / math.log(10.0) * strengths
