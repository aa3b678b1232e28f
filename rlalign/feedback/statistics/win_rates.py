"""Win rates of pairs of policies, and the rates of skips and of "both are bad"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlalign.feedback.statistics.estimate import TwoEstimates
from rlalign.feedback.statistics.intervals import rate, share_of_influences
from rlalign.feedback.statistics.judgments import BAD, LOSS, SKIP, TIE, WIN, Judgments
from rlalign.types import BoolArray, FloatArray, IntArray

SCORE = np.array([0.0, 0.5, 1.0, 0.5, np.nan])
"""Score of the first policy by outcome: a tie and two bad completions are half a win."""


@dataclass(frozen=True, slots=True)
class PairRate:
    """Win rate of a policy over another one.

    Attributes:
        first: index of a policy.
        second: index of another one.
        rate: mean score of the first one.
        wins: votes for the first one.
        ties: ties.
        bad: votes for "both are bad".
        losses: votes for the second one.
    """

    first: int
    second: int
    rate: TwoEstimates
    wins: int
    ties: int
    bad: int
    losses: int


def comparisons(judgments: Judgments) -> Judgments:
    """Return the counted comparisons of two different policies, as pairs.

    A ranking of k completions becomes k (k - 1) / 2 comparisons. They are in the cluster of their prompt, so that no
    interval counts them as independent. A rating becomes none.
    """
    if judgments.kind == "rating":
        return judgments.take(np.zeros(len(judgments), bool))
    if judgments.kind == "ranking":
        pairs = ranked_pairs(judgments.take(judgments.counted))
        return pairs.take((pairs.first >= 0) & (pairs.first != pairs.second))
    return judgments.take(compared(judgments))


def compared(judgments: Judgments) -> BoolArray:
    """Return True for the counted votes on pairs of two different policies, [N]."""
    different: BoolArray = (judgments.first >= 0) & (judgments.first != judgments.second)
    return judgments.counted & different


def ranked_pairs(judgments: Judgments) -> Judgments:
    """Return the comparisons of two completions that rankings imply, as pairs whose items are numbered again."""
    width = judgments.policy.shape[1]
    parts = []
    for a, b in itertools.combinations(range(width), 2):
        rows = judgments.take((judgments.policy[:, b] >= 0) & judgments.answered)
        difference = rows.ranks[:, b] - rows.ranks[:, a]  # rank 1 is the best
        columns = [a, b]
        parts.append(
            replace(
                rows,
                kind="pair",
                item=(rows.item * width + a) * width + b,
                policy=rows.policy[:, columns],
                place=rows.place[:, columns],
                ranks=rows.ranks[:, columns],
                length=rows.length[:, columns],
                markdown=rows.markdown[:, columns],
                outcome=np.where(difference > 0, WIN, np.where(difference < 0, LOSS, TIE)),
            )
        )
    return concatenated(parts)


def concatenated(parts: list[Judgments]) -> Judgments:
    """Return the votes of several parts of the same policies and people."""
    first = parts[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in first.__dataclass_fields__
        if isinstance(getattr(first, name), np.ndarray)
    }
    return replace(first, **arrays)


def inverse_weights(judgments: Judgments) -> FloatArray | None:
    """Return the inverse selection probabilities of votes; None if all are equal.

    Items that were selected by another rule than at random are weighted so that the win rates are those of all items
    (Horvitz and Thompson 1952, J. American Statistical Association 47:663-685).
    """
    probability = judgments.probability
    if not len(probability) or np.ptp(probability) == 0:
        return None
    weights: FloatArray = 1.0 / probability
    return weights


def win_rates(pairs: Judgments) -> list[PairRate]:
    """Return the win rate of each pair of policies, of votes that `comparisons` returned."""
    result = []
    for first, second in compared_pairs(pairs):
        votes = pairs.take((pairs.first == first) & (pairs.second == second))
        counts = np.bincount(votes.outcome, minlength=SKIP)
        weights = inverse_weights(votes)
        method = "win rate: mean of 1 for a win, 0 for a loss, 1/2 for a tie or two bad completions"
        if weights is not None:
            method += ", weighted by inverse selection probabilities"
        mean = rate(SCORE[votes.outcome], votes.group, votes.person, weights, method=method)
        result.append(
            PairRate(
                first, second, mean,
                wins=int(counts[WIN]), ties=int(counts[TIE]), bad=int(counts[BAD]), losses=int(counts[LOSS]),
            )
        )  # fmt: skip
    return result


def compared_pairs(pairs: Judgments) -> list[tuple[int, int]]:
    """Return the pairs of policies that were compared, the smaller index first."""
    size = max(1, len(pairs.policies))
    keys = np.unique(pairs.first * size + pairs.second)
    return [(int(key) // size, int(key) % size) for key in keys]


def pair_influences(pairs: Judgments) -> FloatArray:
    """Return the influence of each vote on the win rates of all pairs, [N, pairs], in the order of `compared_pairs`."""
    listed = compared_pairs(pairs)
    weights = inverse_weights(pairs)
    w = np.ones(len(pairs)) if weights is None else weights
    scores = SCORE[pairs.outcome]
    influence = np.zeros((len(pairs), len(listed)))
    for column, (first, second) in enumerate(listed):
        rows = (pairs.first == first) & (pairs.second == second)
        total = w[rows].sum()
        mean = float(w[rows] @ scores[rows]) / total
        influence[rows, column] = w[rows] * (scores[rows] - mean) / total
    return influence


def average_win_rates(pairs: Judgments) -> dict[int, TwoEstimates]:
    """Return the mean of the win rates of each policy over the others, each of them with the same weight.

    It does not depend on how often each pair was compared. A policy with which the policy was not compared is left out.
    """
    listed = compared_pairs(pairs)
    influence = pair_influences(pairs)
    weights = inverse_weights(pairs)
    w = np.ones(len(pairs)) if weights is None else weights
    rates = []
    for first, second in listed:
        rows = (pairs.first == first) & (pairs.second == second)
        rates.append(float(w[rows] @ SCORE[pairs.outcome[rows]]) / float(w[rows].sum()))
    result = {}
    for policy in np.union1d(pairs.first, pairs.second).tolist():
        sign = np.array([(first == policy) - (1.0 * (second == policy)) for first, second in listed])
        number = int(np.abs(sign).sum())
        value = sum(rate if s > 0 else 1 - rate for rate, s in zip(rates, sign, strict=True) if s) / number
        rows = (pairs.first == policy) | (pairs.second == policy)
        result[policy] = share_of_influences(
            value, influence[rows] @ sign / number, pairs.group[rows], pairs.person[rows],
            weights=None if weights is None else weights[rows], source="Agresti and Coull (1998), The American "
            "Statistician 52:119-126",
            method="mean of the win rates over the other policies, with equal weights; influences of the votes",
        )  # fmt: skip
    return result


def outcome_rates(judgments: Judgments, outcome: int) -> dict[int | None, TwoEstimates]:
    """Return the share of an outcome, SKIP or BAD, of all votes (key None) and of those on each policy.

    Skips are missing values: a rate that differs between policies means that the others are no random part. Gold items
    and repetitions are left out.
    """
    plain = ~judgments.gold & (judgments.repeat_of < 0)
    if outcome != SKIP:
        plain &= judgments.answered
    name = "skips" if outcome == SKIP else "both are bad"
    parts: dict[int | None, BoolArray] = {None: plain}
    present: IntArray = np.unique(judgments.policy[plain])
    for policy in present[present >= 0].tolist():
        parts[policy] = plain & (judgments.policy == policy).any(1)
    hits = (judgments.outcome == outcome).astype(np.float64)
    return {
        key: rate(hits[rows], judgments.group[rows], judgments.person[rows], method=f"share of {name}")
        for key, rows in parts.items()
        if rows.any()
    }
