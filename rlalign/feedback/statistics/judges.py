"""An LLM judge beside people: agreement on the same items, flips between the orders, and preference for a position.

Agreement of the judge means little alone: people do not agree with each other either. So it stands beside the agreement
among people, on the same items, with the difference of both. The measure is that of
Zheng et al. (2023, arXiv 2306.05685, section 4): the probability that a random vote agrees, with ties (three answers)
and without (votes and verdicts that name a winner only). A flip is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from rlalign.feedback.judges.verdicts import combine
from rlalign.feedback.statistics.bootstrap import DRAWS, bootstrap
from rlalign.feedback.statistics.bootstrap import METHOD as BOOTSTRAP_METHOD
from rlalign.feedback.statistics.bootstrap import SOURCE as BOOTSTRAP_SOURCE
from rlalign.feedback.statistics.estimate import detectable, without_nan
from rlalign.feedback.statistics.intervals import distinct, rate
from rlalign.types import BoolArray, FloatArray

WIN, LOSS, TIE = "a", "b", "tie"
"""Answers on the sides of the policies: the first completion in the stored order is better, the second, or none."""
RATE_METHOD = "sandwich variance clustered by prompt, Student's t, with a prompt of ones and one of zeros added"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; NaN where the data determine none, as with one prompt.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        items: items that the estimate uses.
        prompts: clusters of these items.
        people: people whose votes the estimate uses; 0 for figures of the judge alone.
        votes: these votes; answers of the judge for figures of the judge alone.
        detectable: smallest difference that is found with a power of 80 %.
        method: how the interval is computed.
        source: its paper.
    """

    value: float
    low: float
    high: float
    items: int
    prompts: int = 0
    people: int = 0
    votes: int = 0
    detectable: float = math.nan
    method: str = ""
    source: str = ""


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
    annotators: Mapping[int, Sequence[str]] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> JudgeReport:
    """Return the agreement of a judge with people beside that among people, its flips and its position preference.

    The intervals of shares are those of win rates for a panel, clustered by prompt, with one prompt of ones and one of
    zeros added (`rlalign.feedback.statistics.intervals.rate`); a share of 0 has an interval, too. That of the
    difference is a bootstrap over prompts (`rlalign.feedback.statistics.bootstrap`).

    Args:
        votes: item -> votes of different people without skips, on the sides of the policies: "a" if the first
            completion in the stored order is better, "b", "tie" or "bad".
        answers: item -> answers of the judge to the stored order and to the order that is turned round, as they were
            given: "a", "b", "tie", "unparsed" or "refused". See `rlalign.feedback.judges.rows.judge_verdicts`.
        clusters: item -> cluster, such as the group of the prompt; None: each item is one.
        annotators: item -> the people who gave its votes, in their order, for the numbers of people; None: unknown.
        draws: bootstrap draws.
        seed: of the draws.
    """
    items = sorted(answers)
    verdicts = {i: combine(*answers[i]) for i in items}
    choices = {i: v.choice for i, v in verdicts.items()}
    shares = _Shares(
        items, [i if clusters is None else clusters[i] for i in items], votes, annotators or {}, draws, seed
    )
    decided = np.array([choices[i] is not None for i in items], float)
    given = np.array([[answers[i].count(name) for name in ("a", "b", "unparsed", "refused")] for i in items], float)
    given = given.reshape(-1, 4)
    both = np.full(len(items), 2.0)

    def agreement(*, ties: bool) -> Agreement:
        sums = np.array([_agreements(votes.get(i, ()), choices[i], ties=ties) for i in items], float).reshape(-1, 2)
        sums[np.isnan(sums).any(1)] = math.nan  # all three use the same items
        judge, people = sums.T
        return Agreement(
            shares.of_people(judge, ties=ties), shares.of_people(people, ties=ties),
            shares.difference(judge - people, ties=ties),
        )  # fmt: skip

    single = np.array([_agreement_with(votes.get(i, ()), choices[i], ties=True) for i in items], float)
    prefers_first = sum(verdicts[i].reversed and answers[i][0] == "a" for i in items)
    reversals = sum(verdicts[i].reversed for i in items)
    flipped = np.array([verdicts[i].flipped for i in items], float)
    reversed_ = np.array([verdicts[i].reversed for i in items], float)
    return JudgeReport(
        with_ties=agreement(ties=True),
        without_ties=agreement(ties=False),
        one_vote=shares.of_people(single, ties=True),
        flips=shares.of_judge(flipped, decided, 2 * decided),
        reversals=shares.of_judge(reversed_, decided, 2 * decided),
        first=shares.of_judge(given[:, 0], given[:, 0] + given[:, 1], given[:, 0] + given[:, 1]),
        position_p=float(stats.binomtest(prefers_first, reversals).pvalue) if reversals else math.nan,
        unparsed=shares.of_judge(given[:, 2], both, both),
        refused=shares.of_judge(given[:, 3], both, both),
        pairs=len(items),
    )


class _Shares:
    """Shares of items with their intervals and the numbers behind them."""

    def __init__(
        self, items: Sequence[int], clusters: Sequence[int], votes: Mapping[int, Sequence[str]],
        annotators: Mapping[int, Sequence[str]], draws: int, seed: int,
    ) -> None:  # fmt: skip
        self.items = items
        self.clusters = np.asarray(clusters, np.int64)
        self.votes = votes
        self.annotators = annotators
        self.draws = draws
        self.seed = seed

    def of_judge(self, numerator: FloatArray, denominator: FloatArray, answers: FloatArray) -> Interval:
        """Return the ratio of two sums over items, a share, and the number of answers of the judge behind it."""
        rows = denominator > 0
        return self._rate(numerator[rows] / denominator[rows], rows, denominator[rows], 0, int(answers[rows].sum()))

    def of_people(self, scores: FloatArray, *, ties: bool) -> Interval:
        """Return the mean of scores between 0 and 1 over items; NaN for items that do not count."""
        rows = ~np.isnan(scores)
        return self._rate(scores[rows], rows, np.ones(int(rows.sum())), *self._numbers(rows, ties=ties))

    def difference(self, scores: FloatArray, *, ties: bool) -> Interval:
        """Return the mean of differences over items; NaN for items that do not count."""
        rows = ~np.isnan(scores)
        parts = np.stack([scores[rows], np.ones(int(rows.sum()))], 1)
        clusters = self.clusters[rows]
        value, low, high, error = bootstrap(
            parts, clusters, lambda sums: sums[:, 0] / sums[:, 1], draws=self.draws, seed=self.seed
        )
        prompts = distinct(clusters)
        found = detectable(error, prompts - 1) if math.isfinite(error) else math.nan
        people, votes = self._numbers(rows, ties=ties)
        return Interval(
            value, low, high, int(rows.sum()), prompts, people, votes, found, BOOTSTRAP_METHOD, BOOTSTRAP_SOURCE
        )

    def _numbers(self, rows: BoolArray, *, ties: bool) -> tuple[int, int]:
        """Return the numbers of people and votes of items."""
        people: set[str] = set()
        number = 0
        for at in np.flatnonzero(rows).tolist():
            item = self.items[at]
            kept = [at for at, vote in enumerate(self.votes.get(item, ())) if ties or vote in (WIN, LOSS)]
            number += len(kept)
            names = self.annotators.get(item, ())
            people.update(names[at] for at in kept if at < len(names))
        return len(people), number

    def _rate(self, scores: FloatArray, rows: BoolArray, weights: FloatArray, people: int, votes: int) -> Interval:
        """Return the weighted mean of scores with the interval of a panel."""
        if not len(scores):
            return Interval(math.nan, math.nan, math.nan, 0)
        clusters = self.clusters[rows]
        panel = rate(scores, clusters, np.zeros(len(scores), np.int64), weights, method="share").panel
        return Interval(
            panel.value, panel.low, panel.high, len(scores), panel.prompts, people, votes, panel.detectable,
            RATE_METHOD, panel.source,
        )  # fmt: skip


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
    people: Iterable[Mapping[str, Any]], verdicts: Iterable[Mapping[str, Any]], *, draws: int = DRAWS, seed: int = 0
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
    annotators: dict[int, list[str]] = {}
    for row in people:
        number, choice = int(row["item"]), str(row["choice"])
        if row["gold"] or row["repeat_of"] is not None or choice == "skip" or number not in judged:
            continue
        # the vote is on the sides of the screen; two completions of an item have different texts
        if row["completions"] != judged[number]["completions"] and choice in (WIN, LOSS):
            choice = LOSS if choice == WIN else WIN
        votes.setdefault(number, []).append(choice)
        annotators.setdefault(number, []).append(str(row.get("annotator", "")))
    answers = {number: (str(row["answers"][0]), str(row["answers"][1])) for number, row in judged.items()}
    clusters = {number: int(row["group"]) for number, row in judged.items()}
    return judge_report(votes, answers, clusters, annotators=annotators, draws=draws, seed=seed)
