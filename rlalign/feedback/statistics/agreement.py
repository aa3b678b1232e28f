"""Agreement of annotators: Krippendorff's alpha, kappa, and the consistency of a person on repeated items.

All of them are on the sides of policies, without gold items and repetitions. A skip is a missing value. The bootstrap
resamples prompts with all their items. Alpha and Fleiss' kappa are functions of sums over prompts, and prompts with
equal sums are drawn together, so that 1,000 draws take about a second for any number of votes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlalign.feedback.statistics.bootstrap import DRAWS, bootstrap
from rlalign.feedback.statistics.bootstrap import METHOD as BOOTSTRAP_METHOD
from rlalign.feedback.statistics.bootstrap import SOURCE as BOOTSTRAP_SOURCE
from rlalign.feedback.statistics.estimate import Counts, Estimate, TwoEstimates, detectable
from rlalign.feedback.statistics.intervals import dense, distinct, rate, sums_by, two_estimates
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.types import BoolArray, FloatArray, IntArray

ALPHA_SOURCE = "Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, University of Pennsylvania"
FLEISS_SOURCE = "Fleiss (1971), Psychological Bulletin 76:378-382"
COHEN_SOURCE = (
    "Cohen (1960), Educational and Psychological Measurement 20:37-46; Light (1971), Psychological Bulletin "
    "76:365-377; Arvesen (1969), Annals of Mathematical Statistics 40:2076-2100"
)
BOOTSTRAP = f"{BOOTSTRAP_METHOD}, {DRAWS:,} draws"
Metric = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Answers of several people to units: N answers, one row each.

    Attributes:
        unit: item, from 0, [N].
        cluster: prompt, [N].
        person: annotator, [N].
        value: category from 0, [N].
        categories: number of categories.
    """

    unit: IntArray
    cluster: IntArray
    person: IntArray
    value: IntArray
    categories: int

    def counts(self) -> IntArray:
        """Return how many people gave each category to each unit, [U, categories]."""
        number = int(self.unit.max(initial=-1)) + 1
        cells = np.bincount(self.unit * self.categories + self.value, minlength=number * self.categories)
        counts: IntArray = cells.reshape(number, self.categories)
        return counts


def of_votes(judgments: Judgments, *, values: IntArray, keep: BoolArray, categories: int) -> Ratings:
    """Return answers of counted votes for the measures of agreement.

    Args:
        judgments: votes.
        values: category of each vote, [N].
        keep: votes that have a category, [N].
        categories: number of categories.
    """
    rows = keep & judgments.counted
    unit, _ = dense(judgments.item[rows])
    cluster, _ = dense(judgments.group[rows])
    return Ratings(unit, cluster, judgments.person[rows], values[rows], categories)


# ---- Krippendorff's alpha ----


def alpha(ratings: Ratings, metric: Metric) -> Estimate:
    """Return Krippendorff's alpha with its bootstrap interval; NaN without an item that two people answered.

    With the coincidences o_ck of the answers c and k of different people to the same item, their sums n_c, and n::

        alpha = 1 - (n - 1) · Σ_ck o_ck δ²_ck / Σ_ck n_c n_k δ²_ck

    δ² is 1 for different categories (nominal), (Σ_{g=c..k} n_g - (n_c + n_k) / 2)² (ordinal), or (c - k)² (interval).
    """
    counts, clusters, numbers = _shared(ratings)
    k = ratings.categories
    answers = counts.sum(1)  # at least 2
    pairs = counts[:, :, None] * counts[:, None, :] - np.eye(k) * counts[:, :, None]
    coincidences = (pairs / (answers - 1)[:, None, None]).reshape(len(counts), k * k)

    def statistic(sums: FloatArray) -> FloatArray:
        return alpha_of_coincidences(sums.reshape(-1, k, k), metric)

    method = f"Krippendorff's alpha, {metric}; {BOOTSTRAP}"
    return _bootstrap(coincidences, clusters, statistic, numbers, method, ALPHA_SOURCE)


def alpha_of_coincidences(coincidences: FloatArray, metric: Metric) -> FloatArray:
    """Return alpha of matrices of coincidences; see `alpha`.

    Args:
        coincidences: [..., categories, categories].
        metric: the distance of two categories.
    """
    totals = coincidences.sum(-1)  # n_c, [..., categories]
    size = totals.sum(-1)
    k = coincidences.shape[-1]
    if metric == "nominal":
        distance = 1.0 - np.eye(k)
    elif metric == "interval":
        distance = np.subtract.outer(np.arange(k), np.arange(k)).astype(np.float64) ** 2
    else:
        below = np.cumsum(totals, -1) - totals / 2  # up to the middle of a category
        distance = (below[..., :, None] - below[..., None, :]) ** 2
    observed = (coincidences * distance).sum((-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: FloatArray = 1.0 - (size - 1) * observed / expected
    return result


# ---- kappa ----


def fleiss_kappa(ratings: Ratings) -> Estimate:
    """Return Fleiss' kappa with its bootstrap interval.

    With m_u answers to unit u, of which n_uc are category c, over the units with at least two answers::

        kappa = (P - P_e) / (1 - P_e)
        P = mean_u Σ_c n_uc (n_uc - 1) / (m_u (m_u - 1)),   P_e = Σ_c (Σ_u n_uc / Σ_u m_u)²

    Fleiss has the same number of answers to each unit; with different numbers each unit has the same weight in P.
    """
    counts, clusters, numbers = _shared(ratings)
    answers = counts.sum(1)
    agreed = (counts * (counts - 1)).sum(1) / (answers * (answers - 1))
    parts = np.column_stack([np.ones(len(counts)), agreed, counts])

    def statistic(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = sums[:, 1] / sums[:, 0]
            shares = sums[:, 2:] / sums[:, 2:].sum(1, keepdims=True)
            expected = (shares**2).sum(1)
            kappa: FloatArray = (observed - expected) / (1 - expected)
        return kappa

    return _bootstrap(parts, clusters, statistic, numbers, f"Fleiss' kappa; {BOOTSTRAP}", FLEISS_SOURCE)


def percent_agreement(ratings: Ratings) -> Estimate:
    """Return the share of equal pairs of answers to an item, as a mean over items, with its bootstrap interval."""
    counts, clusters, numbers = _shared(ratings)
    answers = counts.sum(1)
    agreed = (counts * (counts - 1)).sum(1) / (answers * (answers - 1))
    parts = np.column_stack([np.ones(len(counts)), agreed])

    def statistic(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            share: FloatArray = sums[:, 1] / sums[:, 0]
        return share

    return _bootstrap(
        parts, clusters, statistic, numbers, f"share of equal pairs of answers; {BOOTSTRAP}", FLEISS_SOURCE
    )


@dataclass(frozen=True, slots=True)
class PairKappa:
    """Cohen's kappa of two people.

    Attributes:
        first: index of a person.
        second: index of another one.
        kappa: on the items that both answered; NaN if both gave one category only.
        items: number of these items.
    """

    first: int
    second: int
    kappa: float
    items: int


def cohen_kappas(ratings: Ratings) -> tuple[list[PairKappa], TwoEstimates | None]:
    """Return Cohen's kappa of each pair of people, and the mean over pairs, weighted by their numbers of items.

    With the shares p of the items of a pair of people, and their marginal shares r and q::

        kappa = (p_o - p_e) / (1 - p_e),   p_o = Σ_c p_cc,   p_e = Σ_c r_c q_c

    The variance of the mean for the panel is that of its linearization, clustered by prompt (as in Fleiss, Cohen and
    Everitt 1969). For the population, people are left out one by one, since two pairs with a person in common are
    alike. Without person a, of A, whose pairs have the sum w_a of the weights w, the mean changes by
    d_a = Σ_j w_aj (kappa_aj - mean) / (1 - w_a)::

        V_population = V_panel + (A - 1) / A · Σ_a d_a²,   t with A - 1 degrees of freedom

    A part of the noise of the prompts is in both terms. There is no interval for the population if all pairs have a
    person in common. Source: Arvesen (1969), Annals of Mathematical Statistics 40:2076-2100.
    Pairs whose kappa is not defined are in the list, and not in the mean.
    """
    rows = np.lexsort((ratings.person, ratings.unit))
    left, right = _pairs_of_rows(ratings.unit[rows])
    left, right = rows[left], rows[right]
    if not len(left):
        return [], None
    k = ratings.categories
    size = int(ratings.person.max()) + 1
    keys, pair = np.unique(ratings.person[left] * size + ratings.person[right], return_inverse=True)
    a, b = ratings.value[left], ratings.value[right]
    shares = np.bincount((pair * k + a) * k + b, minlength=len(keys) * k * k).reshape(-1, k, k).astype(np.float64)
    items = shares.sum((1, 2))
    shares /= items[:, None, None]
    row, column = shares.sum(2), shares.sum(1)
    observed = np.trace(shares, axis1=1, axis2=2)
    expected = (row * column).sum(1)
    defined = expected < 1
    gap = np.where(defined, 1 - expected, math.nan)
    kappas = (observed - expected) / gap
    listed = [
        PairKappa(int(key) // size, int(key) % size, float(kappas[i]), int(items[i])) for i, key in enumerate(keys)
    ]
    if not defined.any():
        return listed, None
    weight = np.where(defined, items, 0.0)
    weight /= weight.sum()
    # d kappa = (d p_o · (1 - p_e) - (1 - p_o) · d p_e) / (1 - p_e)²
    p_o, p_e = observed[pair], expected[pair]
    change = (a == b) - p_o
    change_expected = column[pair, a] + row[pair, b] - 2 * p_e
    with np.errstate(invalid="ignore"):
        influence = (change * (1 - p_e) - (1 - p_o) * change_expected) / gap[pair] ** 2
    influence = np.where(defined[pair], influence * weight[pair] / items[pair], 0.0)
    used = defined[pair]
    votes = np.unique(np.concatenate([left[used], right[used]]))
    counts = Counts(distinct(ratings.cluster[votes]), distinct(ratings.person[votes]), len(votes))
    mean = float((weight * np.where(defined, kappas, 0.0)).sum())
    method = "mean of Cohen's kappa over pairs of people, weighted by their items; linearization, jackknife over people"
    deviation = weight * np.where(defined, kappas - mean, 0.0)
    members = np.stack([keys // size, keys % size], 1)
    panel, population = _pair_variances(influence, ratings.cluster[left], members, deviation, weight)
    both = two_estimates(
        mean, math.sqrt(panel), math.sqrt(population), counts, min(counts.prompts, counts.people) - 1,
        method=method, source=COHEN_SOURCE,
    )  # fmt: skip
    return listed, both


def _pair_variances(
    influence: FloatArray, cluster: IntArray, members: IntArray, deviation: FloatArray, weight: FloatArray
) -> tuple[float, float]:  # fmt: skip
    """Return the variances of a mean over pairs of people, for the panel and for the population.

    Args:
        influence: of R shared items of pairs, with sum 0 for each pair, [R].
        cluster: prompt of each, [R].
        members: the two people of each pair, [Q, 2].
        deviation: weight times deviation of each pair from the mean, [Q].
        weight: of the pairs, with sum 1; 0 for those that are left out, [Q].
    """
    cluster, prompts = dense(cluster)
    sums = sums_by(cluster, influence, prompts)
    panel = prompts / (prompts - 1) * float(sums @ sums) if prompts > 1 else math.nan
    people, number = dense(members[weight > 0])
    rest = 1 - sums_by(people.reshape(-1), np.repeat(weight[weight > 0], 2), number)  # weight without a person
    if (rest < 1e-9).any():
        return panel, math.nan
    change = sums_by(people.reshape(-1), np.repeat(deviation[weight > 0], 2), number) / rest
    return panel, panel + (number - 1) / number * float(change @ change)


# ---- self-consistency ----


def self_consistency(judgments: Judgments) -> dict[str, TwoEstimates]:
    """Return how often a person gives the same answer to an item again.

    Returns:
        "all", and for pairs "same sides" and "sides swapped", of the repetitions that exist. A person who always takes
        the left side is consistent in the first and inconsistent in the second.
    """
    again = np.flatnonzero(judgments.answered & (judgments.repeat_of >= 0))
    plain = np.flatnonzero(judgments.counted)
    if not len(again) or not len(plain):
        return {}
    people = len(judgments.people)
    keys = judgments.item[plain] * people + judgments.person[plain]
    order = np.argsort(keys)
    wanted = judgments.repeat_of[again] * people + judgments.person[again]
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    found = keys[order][at] == wanted  # the first vote may be withdrawn or undone
    first, second = plain[order][at[found]], again[found]
    if not len(first):
        return {}
    same = judgments.outcome[first] == judgments.outcome[second]
    same &= (judgments.ranks[first] == judgments.ranks[second]).all(1)
    same &= (judgments.ratings[first] == judgments.ratings[second]).all(1)
    parts = {"all": np.ones(len(first), bool)}
    if judgments.kind == "pair":
        swapped = judgments.place[first, 0] != judgments.place[second, 0]
        parts |= {"same sides": ~swapped, "sides swapped": swapped}
    method = "share of repetitions with the same answer"
    return {
        name: rate(
            same[rows].astype(np.float64), judgments.group[first][rows], judgments.person[first][rows], method=method
        )
        for name, rows in parts.items()
        if rows.any()
    }


# ---- helpers ----


def _shared(ratings: Ratings) -> tuple[IntArray, IntArray, Counts]:
    """Return the counts of the units with at least two answers, their clusters, and the numbers behind them."""
    counts = ratings.counts()
    shared = counts.sum(1) >= 2
    cluster_of = np.zeros(len(counts), np.int64)
    cluster_of[ratings.unit] = ratings.cluster
    rows = shared[ratings.unit] if len(counts) else np.zeros(0, bool)
    clusters = cluster_of[shared]
    numbers = Counts(distinct(clusters), distinct(ratings.person[rows]), int(rows.sum()))
    return counts[shared], clusters, numbers


def _pairs_of_rows(units: IntArray) -> tuple[IntArray, IntArray]:
    """Return all pairs of rows of the same unit; `units` is sorted."""
    lefts, rights = [], []
    step = 1
    while step < len(units):
        same = np.flatnonzero(units[step:] == units[:-step])
        if not len(same):
            break
        lefts.append(same)
        rights.append(same + step)
        step += 1
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *lefts]), np.concatenate([empty, *rights])


def _bootstrap(
    parts: FloatArray | IntArray, clusters: IntArray, statistic: Callable[[FloatArray], FloatArray], numbers: Counts,
    method: str, source: str,
) -> Estimate:  # fmt: skip
    """Return a function of sums over units with its percentile bootstrap interval over clusters.

    Args:
        parts: what each unit adds, [U, P].
        clusters: of the units, [U].
        statistic: takes sums [B, P] and returns values [B].
        numbers: behind the estimate.
        method: its name.
        source: its paper.
    """
    value, low, high, error = bootstrap(parts, clusters, statistic)
    found = detectable(error, numbers.prompts - 1) if math.isfinite(error) else math.nan
    return Estimate(
        value, low, high, found, method, f"{source}; {BOOTSTRAP_SOURCE}", numbers.prompts, numbers.people, numbers.votes
    )
