"""An LLM judge beside people: agreement on the same items, flips between the orders, and preference for a position.

Agreement of the judge means little alone: people do not agree with each other either. So it stands beside the agreement
among people, on the same items, with the difference of both and one bootstrap for all three. The measure is that of
Zheng et al. (2023, arXiv 2306.05685, section 4): the probability that a random vote agrees, with ties (three answers)
and without (votes and verdicts that name a winner only). A flip is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from scipy import stats

from rlalign.feedback.judges.rows import judge_verdicts
from rlalign.feedback.judges.verdicts import combine
from rlalign.feedback.progress import votes as votes_of_people
from rlalign.feedback.statistics.estimate import without_nan
from rlalign.types import FloatArray

WIN, LOSS, TIE = "a", "b", "tie"
"""Answers on the sides of the policies: the first completion in the stored order is better, the second, or none."""
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with a 95 % percentile interval of the bootstrap; NaN without data.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        items: items that the estimate uses.
    """

    value: float
    low: float
    high: float
    items: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on items with a verdict of the judge and votes of at least two people.

    Attributes:
        judge: probability that the judge agrees with a random vote of an item.
        people: probability that two random votes of an item agree.
        difference: judge less people.
    """

    judge: Interval
    people: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """A judge beside people.

    Attributes:
        with_ties: agreement of three answers; two bad completions are a tie.
        without_ties: agreement of votes and verdicts that name a winner.
        one_vote: agreement of the judge with the votes of all items that have a verdict, with ties, also items with
            one vote.
        flips: share of pairs whose two orders have different verdicts.
        reversals: share of pairs whose winner changes with the order.
        first: share of answers that prefer the completion that is shown first, of all answers that name a winner; 0.5
            without a preference for a position.
        position_p: two-sided p value of the sign test that reversals prefer the first and the second position equally
            often; NaN without reversals.
        unparsed: share of answers without a verdict.
        refused: share of answers that are refusals.
        pairs: pairs that were asked in both orders.
    """

    with_ties: Agreement
    without_ties: Agreement
    one_vote: Interval
    flips: Interval
    reversals: Interval
    first: Interval
    position_p: float
    unparsed: Interval
    refused: Interval
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN becomes None."""
        values: dict[str, Any] = without_nan(asdict(self))
        return values


def judge_report(
    votes: Mapping[int, Sequence[str]],
    answers: Mapping[int, tuple[str, str]],
    clusters: Mapping[int, int] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> JudgeReport:
    """Return the agreement of a judge with people beside that among people, its flips and its position preference.

    Intervals are percentiles of a bootstrap that draws clusters of items with replacement (Efron and Tibshirani 1993,
    An Introduction to the Bootstrap, chapter 13).

    Args:
        votes: item -> votes of different people without skips, on the sides of the policies: "a" if the first
            completion in the stored order is better, "b", "tie" or "bad".
        answers: item -> answers of the judge to the stored order and to the order that is turned round, as they were
            given: "a", "b", "tie", "unparsed" or "refused". See `rlalign.feedback.judges.rows.judge_verdicts`.
        clusters: item -> cluster, such as the group of the prompt; None: each item is one.
        draws: bootstrap draws.
        seed: of the draws.
    """
    items = sorted(answers)
    verdicts = {i: combine(*answers[i]) for i in items}
    choices = {i: v.choice for i, v in verdicts.items()}
    decided = np.array([choices[i] is not None for i in items], float)
    flipped = np.array([verdicts[i].flipped for i in items], float)
    reversed_ = np.array([verdicts[i].reversed for i in items], float)
    given = np.array([[answers[i].count(name) for name in ("a", "b", "unparsed", "refused")] for i in items], float)
    given = given.reshape(-1, 4)
    both = np.full(len(items), 2.0)
    boot = _Bootstrap([i if clusters is None else clusters[i] for i in items], draws, seed)

    def agreement(*, ties: bool) -> Agreement:
        sums = np.array([_agreements(votes.get(i, ()), choices[i], ties=ties) for i in items], float).reshape(-1, 2)
        usable = ~np.isnan(sums).any(1)
        weight = usable.astype(float)
        judge, people = np.where(usable[:, None], sums, 0.0).T
        return Agreement(boot.ratio(judge, weight), boot.ratio(people, weight), boot.ratio(judge - people, weight))

    single = np.array([_agreement_with(votes.get(i, ()), choices[i], ties=True) for i in items], float)
    some = ~np.isnan(single)
    prefers_first = sum(verdicts[i].reversed and answers[i][0] == "a" for i in items)
    reversals = int(reversed_.sum())
    return JudgeReport(
        with_ties=agreement(ties=True),
        without_ties=agreement(ties=False),
        one_vote=boot.ratio(np.where(some, single, 0.0), some.astype(float)),
        flips=boot.ratio(flipped, decided),
        reversals=boot.ratio(reversed_, decided),
        first=boot.ratio(given[:, 0], given[:, 0] + given[:, 1]),
        position_p=float(stats.binomtest(prefers_first, reversals).pvalue) if reversals else math.nan,
        unparsed=boot.ratio(given[:, 2], both),
        refused=boot.ratio(given[:, 3], both),
        pairs=len(items),
    )


class _Bootstrap:
    """Draws of clusters with replacement, the same ones for each statistic."""

    def __init__(self, clusters: Sequence[int], draws: int, seed: int) -> None:
        _, self.codes = np.unique(np.asarray(clusters, np.int64), return_inverse=True)
        self.number = int(self.codes.max()) + 1 if len(self.codes) else 0
        rng = np.random.default_rng(seed)
        # how often each cluster is drawn; a draw of n of n clusters is multinomial
        self.times = (
            rng.multinomial(self.number, np.full(self.number, 1 / self.number), draws)
            if self.number
            else np.zeros((draws, 0), np.int64)
        )

    def ratio(self, numerator: FloatArray, denominator: FloatArray) -> Interval:
        """Return the ratio of two sums over items with its interval."""
        total = float(denominator.sum())
        if total <= 0:
            return Interval(math.nan, math.nan, math.nan, 0)
        value = float(numerator.sum()) / total
        above = self.times @ np.bincount(self.codes, numerator, self.number)
        below = self.times @ np.bincount(self.codes, denominator, self.number)
        shares = above[below > 0] / below[below > 0]  # a draw of few items may have none that counts
        low, high = np.quantile(shares, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return Interval(value, float(low), float(high), int((denominator > 0).sum()))


def _agreement_with(votes: Sequence[str], choice: str | None, *, ties: bool) -> float:
    """Return the share of votes that agree with a verdict; NaN if there is nothing to compare."""
    mapped = [TIE if vote == "bad" else vote for vote in votes]
    kept = mapped if ties else [vote for vote in mapped if vote != TIE]
    if choice is None or (choice == TIE and not ties) or not kept:
        return math.nan
    return kept.count(choice) / len(kept)


def _agreements(votes: Sequence[str], choice: str | None, *, ties: bool) -> tuple[float, float]:
    """Return the agreement of a verdict with the votes of an item, and that of two of its votes; NaN without either."""
    mapped = [TIE if vote == "bad" else vote for vote in votes]
    kept = mapped if ties else [vote for vote in mapped if vote != TIE]
    if len(kept) < 2:
        return math.nan, math.nan
    n = len(kept)
    pairs = sum(kept.count(answer) * (kept.count(answer) - 1) for answer in (WIN, LOSS, TIE))
    return _agreement_with(votes, choice, ties=ties), pairs / (n * (n - 1))


def read_judge_report(
    people: Iterable[Mapping[str, Any]], verdicts: Iterable[Mapping[str, Any]], *, draws: int = 2000, seed: int = 0
) -> JudgeReport:
    """Return the report of one judge from rows.

    Args:
        people: votes of people, as `rlalign.feedback.progress.votes` returns them. Gold items, repetitions and skips
            are left out.
        verdicts: of one judge, as `rlalign.feedback.judges.rows.judge_verdicts` returns them.
        draws: bootstrap draws.
        seed: of the draws.
    """
    judged = {int(row["item"]): row for row in verdicts}
    votes: dict[int, list[str]] = {}
    for row in people:
        number, choice = int(row["item"]), str(row["choice"])
        if row["gold"] or row["repeat_of"] is not None or choice == "skip" or number not in judged:
            continue
        # the vote is on the sides of the screen; two completions of an item have different texts
        if row["completions"] != judged[number]["completions"] and choice in (WIN, LOSS):
            choice = LOSS if choice == WIN else WIN
        votes.setdefault(number, []).append(choice)
    answers = {number: (str(row["answers"][0]), str(row["answers"][1])) for number, row in judged.items()}
    clusters = {number: int(row["group"]) for number, row in judged.items()}
    return judge_report(votes, answers, clusters, draws=draws, seed=seed)


def judge_reports(connection: sa.Connection, *, draws: int = 2000, seed: int = 0) -> dict[str, JudgeReport]:
    """Return the report of each judge of a store, by its pseudonym.

    Args:
        connection: a snapshot.
        draws: bootstrap draws.
        seed: of the draws.
    """
    verdicts: dict[str, list[Mapping[str, Any]]] = {}
    for row in judge_verdicts(connection):
        verdicts.setdefault(row["annotator"], []).append(row)
    people = list(votes_of_people(connection, comments=False)) if verdicts else []
    return {name: read_judge_report(people, rows, draws=draws, seed=seed) for name, rows in sorted(verdicts.items())}
