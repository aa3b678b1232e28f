"""Two intervals of an estimate: for this panel of annotators, and for the population of annotators.

Both begin with the influence of each vote: the estimate differs from its true value by their sum, approximately.

*Panel*: the annotators are fixed. The votes of a prompt form a cluster; with G prompts and the sums s_g of influences::

    V_panel = G / (G - 1) · Σ_g s_g s_gᵀ,   Student's t with G - 1 degrees of freedom

*Population*: the annotators are a sample, too. With A annotators, their sums s_a, their shares w_a of the votes, and
the sums s_c of the C cells of prompt and annotator, the two-way sandwich is::

    V_population = V_panel + Σ_a s_a s_aᵀ / (1 - 2 w_a + Σ_b w_b²) - C / (C - 1) · Σ_c s_c s_cᵀ

The divisor makes the middle part unbiased for independent effects of the annotators: a person with many votes draws the
estimate to their own mean, so their sum is too small. For equal workloads it is (A - 1) / A. Student's t has
min(G - 1, A* · (A - 1) / A) degrees of freedom, at least 1, with the effective number of annotators A* = 1 / Σ_a w_a²,
which is A for equal workloads: if two people gave most votes, the variance between annotators is known from two people.

Negative eigenvalues are set to 0. An interval for the population that is narrower than that for the panel gets the
width of the panel's: a variance between annotators that is estimated as negative adds nothing.

Sources: Cameron, Gelbach and Miller (2011), J. Business & Economic Statistics 29:238-249; effective number of clusters:
Carter, Schnepel and Steigerwald (2017), Review of Economics and Statistics 99:698-709.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlalign.feedback.statistics.estimate import LEVEL, Counts, TwoEstimates, t_estimate, t_quantile
from rlalign.types import FloatArray, IntArray

Interval = Literal["panel", "population"]
PANEL = "for this panel of annotators: sandwich variance clustered by prompt, Student's t"
POPULATION = "for the population of annotators: two-way sandwich variance by prompt and annotator, Student's t"
PANEL_SOURCE = "Cameron and Miller (2015), J. Human Resources 50:317-372"
POPULATION_SOURCE = (
    "Cameron, Gelbach and Miller (2011), J. Business & Economic Statistics 29:238-249; Carter, Schnepel and "
    "Steigerwald (2017), Review of Economics and Statistics 99:698-709"
)


@dataclass(frozen=True, slots=True)
class Covariance:
    """Covariances of an estimate of P components.

    Attributes:
        panel: annotators fixed, clustered by prompt, [P, P].
        population: two-way, [P, P]; NaN for one annotator.
        counts: numbers of prompts, annotators and votes.
        between_df: degrees of freedom of the variance between annotators; NaN: the number of annotators less 1.
    """

    panel: FloatArray
    population: FloatArray
    counts: Counts
    between_df: float = math.nan

    @property
    def panel_df(self) -> float:
        """Degrees of freedom of the panel's interval."""
        return self.counts.prompts - 1

    @property
    def population_df(self) -> float:
        """Degrees of freedom of the population's interval."""
        between = self.counts.people - 1 if math.isnan(self.between_df) else self.between_df
        return min(self.counts.prompts - 1, between)

    def of(self, contrasts: FloatArray) -> Covariance:
        """Return the covariances of linear combinations of the components.

        Args:
            contrasts: coefficients, [Q, P].
        """
        panel, population = (contrasts @ matrix @ contrasts.T for matrix in (self.panel, self.population))
        return Covariance(panel, population, self.counts, self.between_df)

    def estimates(self, values: FloatArray, method: str, source: str) -> list[TwoEstimates]:
        """Return each component with both intervals.

        Args:
            values: the components, [P].
            method: how they are estimated.
            source: its paper.
        """
        panel = np.sqrt(np.maximum(np.diag(self.panel), 0))
        population = np.sqrt(np.maximum(np.diag(self.population), 0))
        return [
            two_estimates(
                float(value),
                float(panel[i]),
                float(population[i]),
                self.counts,
                self.population_df,
                method=method,
                source=source,
            )
            for i, value in enumerate(values)
        ]

    def standard_errors(self, interval: Interval) -> tuple[FloatArray, float]:
        """Return the standard errors of the components, [P], and their degrees of freedom, for one of the intervals."""
        panel = np.sqrt(np.maximum(np.diag(self.panel), 0))
        if interval == "panel":
            return panel, self.panel_df
        population = np.sqrt(np.maximum(np.diag(self.population), 0))
        least = panel * least_ratio(self.panel_df, self.population_df)
        return np.maximum(population, least), self.population_df


def two_estimates(
    value: float, panel_se: float, population_se: float, counts: Counts, population_df: float, *, method: str,
    source: str, center: float | None = None, bounds: tuple[float, float] = (-math.inf, math.inf),
) -> TwoEstimates:  # fmt: skip
    """Return an estimate with the intervals of two standard errors; see `t_estimate`."""
    panel = t_estimate(
        value, panel_se, counts.prompts - 1, counts, f"{method}; {PANEL}", f"{source}; {PANEL_SOURCE}",
        center=center, bounds=bounds,
    )  # fmt: skip
    if counts.people < 2:
        return TwoEstimates(panel, None)
    population = t_estimate(
        value, max(population_se, panel_se * least_ratio(counts.prompts - 1, population_df)), population_df, counts,
        f"{method}; {POPULATION}", f"{source}; {POPULATION_SOURCE}", center=center, bounds=bounds,
    )  # fmt: skip
    return TwoEstimates(panel, population)


def least_ratio(panel_df: float, population_df: float) -> float:
    """Return the ratio of the population's to the panel's standard error at which both intervals are equally wide."""
    if not population_df >= 1:
        return math.nan
    level = (1 + LEVEL) / 2
    return t_quantile(level, panel_df) / t_quantile(level, population_df)


def dense(values: IntArray) -> tuple[IntArray, int]:
    """Return numbers from 0 that are equal where the values are, in the order of the values, and how many there are."""
    least = int(values.min(initial=0))
    span = int(values.max(initial=0)) - least + 1
    if span > 4 * len(values) + 1000:
        unique, codes = np.unique(values, return_inverse=True)
        return codes.reshape(values.shape), len(unique)
    # counting takes a tenth of the time of sorting
    present = np.bincount((values - least).reshape(-1), minlength=span) > 0
    numbers = np.cumsum(present) - 1
    return numbers[values - least], int(numbers[-1]) + 1 if len(values) else 0


def distinct(values: IntArray) -> int:
    """Return the number of different values."""
    return dense(values)[1]


def sums_by(codes: IntArray, values: FloatArray | IntArray, number: int) -> FloatArray:
    """Return the sums of values [N] over equal codes from 0, [number]."""
    return np.asarray(np.bincount(codes, values, number), np.float64)


def cluster_sums(values: FloatArray | IntArray, codes: IntArray, number: int) -> FloatArray:
    """Return the sums of values [N, P] over clusters, [number, P]."""
    columns = [sums_by(codes, values[:, j], number) for j in range(values.shape[1])]
    return np.stack(columns, 1) if columns else np.zeros((number, 0))


def covariance(
    influence: FloatArray, prompt: IntArray, person: IntArray, weights: FloatArray | None = None
) -> Covariance:
    """Return the covariances of an estimate from the influences of its votes; see the module for the equations.

    Args:
        influence: [N, P]; the estimate's error is their sum, approximately.
        prompt: cluster of each vote, [N].
        person: annotator of each vote, [N].
        weights: of the votes, for the shares of the annotators, [N]; None: equal.
    """
    prompts, number = dense(prompt)
    people, annotators = dense(person)
    panel = _outer(cluster_sums(influence, prompts, number))
    counts = Counts(number, annotators, len(influence))
    if annotators < 2:
        return Covariance(panel, np.full_like(panel, math.nan), counts)
    cells, pairs = dense(prompts * annotators + people)
    share = sums_by(people, np.ones(len(people)) if weights is None else weights, annotators)
    share = share / share.sum()
    concentration = float(share @ share)  # 1 / A*
    sums = cluster_sums(influence, people, annotators)
    between = (sums / (1 - 2 * share + concentration)[:, None]).T @ sums
    matrix = panel + between - _outer(cluster_sums(influence, cells, pairs))
    df = max(1.0, (annotators - 1) / annotators / concentration)
    return Covariance(panel, positive_part(matrix), counts, df)


def _outer(sums: FloatArray) -> FloatArray:
    """Return n / (n - 1) · Σ s sᵀ of n sums; NaN for one."""
    n = len(sums)
    product: FloatArray = sums.T @ sums * (n / (n - 1) if n > 1 else math.nan)
    return product


def positive_part(matrix: FloatArray) -> FloatArray:
    """Return a symmetric matrix whose negative eigenvalues are set to 0.

    Source: Cameron, Gelbach and Miller (2011), section 2.3.
    """
    if not np.isfinite(matrix).all():
        return matrix
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    part: FloatArray = (vectors * np.maximum(values, 0)) @ vectors.T
    return part


def rate(
    scores: FloatArray, prompt: IntArray, person: IntArray, weights: FloatArray | None = None, *, method: str,
    source: str = "",
) -> TwoEstimates:  # fmt: skip
    """Return the mean of scores between 0 and 1 with both intervals.

    The interval of the panel has two more prompts, with the mean weight of a prompt: one of scores 1, one of scores 0.
    This is the correction of Agresti and Coull (1998, The American Statistician 52:119-126), per prompt. Without it, a
    policy that won each vote would have an interval of width 0. The value is the plain mean.

    Args:
        scores: [N], N > 0.
        prompt: cluster of each vote, [N].
        person: annotator of each vote, [N].
        weights: of the votes, such as inverse selection probabilities, [N]; None: equal.
        method: what the mean is.
        source: paper of the method.
    """
    w = np.ones(len(scores)) if weights is None else weights
    total = float(w.sum())
    value = float(w @ scores) / total
    prompts, number = dense(prompt)
    # both centers are the same for the sums of the sandwich, except for the two added prompts
    mean_weight = total / number
    center = (value * total + mean_weight) / (total + 2 * mean_weight)
    sums = sums_by(prompts, w * (scores - center), number)
    added = mean_weight**2 * ((1 - center) ** 2 + center**2)
    n = number + 2
    panel = n / (n - 1) * (float(sums @ sums) + added) / (total + 2 * mean_weight) ** 2
    influence = (w * (scores - value) / total)[:, None]
    plain = covariance(influence, prompt, person, weights)
    # the two added prompts have no annotators, so they change the panel's part only
    population = plain.population[0, 0] - plain.panel[0, 0] + panel
    if number < 2:
        panel = population = math.nan
    return two_estimates(
        value, math.sqrt(panel), math.sqrt(max(population, 0.0)), plain.counts, plain.population_df, method=method,
        source=source or "Agresti and Coull (1998), The American Statistician 52:119-126",
        center=center, bounds=(0.0, 1.0),
    )  # fmt: skip


def share_of_influences(
    value: float, influence: FloatArray, prompt: IntArray, person: IntArray, weights: FloatArray | None = None, *,
    method: str, source: str,
) -> TwoEstimates:  # fmt: skip
    """Return an estimate between 0 and 1 with both intervals, from the influences of its votes.

    As in `rate`, two prompts are added, one with the value 1 and one with the value 0.

    Args:
        value: the estimate.
        influence: of the votes, [N].
        prompt: cluster of each vote, [N].
        person: annotator of each vote, [N].
        weights: of the votes, for the shares of the annotators, [N]; None: equal.
        method: how the value is estimated.
        source: its paper.
    """
    found = covariance(influence[:, None], prompt, person, weights)
    prompts = found.counts.prompts
    center = (value * prompts + 1) / (prompts + 2)
    shrink = (prompts / (prompts + 2)) ** 2
    added = ((1 - center) ** 2 + center**2) / (prompts + 2) ** 2 if prompts > 1 else math.nan
    panel = shrink * float(found.panel[0, 0]) + added
    population = shrink * float(found.population[0, 0]) + added
    return two_estimates(
        value, math.sqrt(panel), math.sqrt(max(population, 0.0)), found.counts, found.population_df, method=method,
        source=source, center=center, bounds=(0.0, 1.0),
    )  # fmt: skip
