"""Votes as numpy arrays, on the sides of policies instead of the sides of the screen.

The completions of a vote are in canonical order: by the index of their policy, then by the id of the completion.
`place` holds where each of them was on the screen.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.progress import is_right_on_screen
from rlalign.feedback.statistics.markdown import STYLES, markdown_counts
from rlalign.feedback.study import LABELS, Kind, Study
from rlalign.feedback.votes import stands
from rlalign.types import BoolArray, FloatArray, IntArray

LOSS, TIE, WIN, BAD, SKIP = range(5)
"""Outcomes of a pair for its first policy. The first three are ordered; BAD (both are bad) has no place among them."""
OUTCOMES = ("loss", "tie", "win", "bad", "skip")
_OTHER = -1
"""Outcome of a rating or of a ranking that is not a skip."""


@dataclass(frozen=True, slots=True)
class Judgments:
    """Votes that stand, one row per vote. N votes of at most K completions; S scales.

    Attributes:
        kind: pair, rating or ranking.
        policies: labels.
        people: pseudonyms.
        scales: names of the scales of a rating.
        group: group of near-duplicate prompts; votes of a group form a cluster, shape [N].
        item: id of the item, [N].
        person: index into `people`, [N].
        policy: index into `policies` of each completion, in canonical order; -1 if there is none, [N, K].
        place: place of each completion on the screen from 0, the left; -1 if there is none, [N, K].
        outcome: LOSS, TIE, WIN, BAD or SKIP for the first policy of a pair; SKIP or -1 in other kinds, [N].
        ranks: rank of each completion from 1, in a ranking; else 0, [N, K].
        ratings: points on each scale; 0 if there are none, [N, S].
        length: characters of each completion, [N, K].
        markdown: number of headers, list entries and bold passages of each completion, [N, K, 3].
        seconds: active time, [N].
        gold: the item has a known answer, [N].
        repeat_of: id of the item that this one repeats; -1 if it repeats none, [N].
        right: 1 for a right answer to a gold item, 0 for a wrong one, -1 if unknown, [N].
        probability: probability with which the item was selected, up to a factor, [N].
    """

    kind: Kind
    policies: tuple[str, ...]
    people: tuple[str, ...]
    scales: tuple[str, ...]
    group: IntArray
    item: IntArray
    person: IntArray
    policy: IntArray
    place: IntArray
    outcome: IntArray
    ranks: IntArray
    ratings: IntArray
    length: IntArray
    markdown: IntArray
    seconds: FloatArray
    gold: BoolArray
    repeat_of: IntArray
    right: IntArray
    probability: FloatArray

    def __len__(self) -> int:
        return len(self.item)

    @property
    def first(self) -> IntArray:
        """Policy of the first completion, [N]."""
        return self.policy[:, 0]

    @property
    def second(self) -> IntArray:
        """Policy of the second completion, [N]."""
        return self.policy[:, 1]

    @property
    def first_left(self) -> BoolArray:
        """The first completion was on the left, [N]."""
        left: BoolArray = self.place[:, 0] == 0
        return left

    @property
    def counted(self) -> BoolArray:
        """The vote is on an item of the study: no gold item, no repetition, no skip, [N]."""
        return self.answered & ~self.gold & (self.repeat_of < 0)

    @property
    def answered(self) -> BoolArray:
        """The vote is no skip, [N]."""
        answered: BoolArray = self.outcome != SKIP
        return answered

    def take(self, rows: BoolArray | IntArray) -> Judgments:
        """Return some of the votes, chosen by a mask or by indices; policies and people keep their indices."""
        # indices are copied faster than a mask, and the mask is read once
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        changes = {
            field.name: getattr(self, field.name)[chosen]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **changes)


def read_judgments(connection: sa.Connection, study: Study) -> Judgments:
    """Return the votes of people in a store that stand: not undone, not superseded, not withdrawn.

    Columns are read at once, and length and Markdown are computed once per completion. Verdicts of LLM judges are no
    votes: see `rlalign.feedback.statistics.judges`.

    Args:
        connection: a snapshot.
        study: the study of the store.
    """
    with _collection_paused():
        return _read(connection, study)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Pause the garbage collector, which takes a third of the time of reading half a million rows and frees nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(connection: sa.Connection, study: Study) -> Judgments:
    vote, item, completion = tables.vote, tables.item, tables.completion
    people = connection.execute(sa.select(tables.annotator.c.id, tables.annotator.c.pseudonym)).all()
    labels = connection.execute(sa.select(tables.policy.c.id, tables.policy.c.label).order_by(tables.policy.c.id)).all()
    items = _columns(
        connection,
        sa.select(item.c.id, item.c.kind, tables.prompt.c.group_id, item.c.selection_prob, item.c.repeat_of)
        .join(tables.prompt, tables.prompt.c.id == item.c.prompt_id)
        .where(item.c.kind.not_in(("practice", "check")))
        .order_by(item.c.id),
        5,
    )
    columns = [vote.c.id, vote.c.item, vote.c.annotator, vote.c.choice, vote.c.order_json, vote.c.active_ms]
    columns += [] if study.kind == "pair" else [vote.c.ratings_json, vote.c.ranking_json]
    votes = _columns(
        connection,
        sa.select(*columns)
        .where(vote.c.kind == study.kind, vote.c.source == "person", vote.c.withdrawn == 0, stands())
        .order_by(vote.c.id),
        len(columns),
    )
    known = _completions(connection, sa.select(completion.c.id, completion.c.policy_id, completion.c.text))
    # votes on practice and check items leave
    at = _find(_integers(items[0]), _integers(votes[1]))
    rows = np.flatnonzero(at >= 0)
    at = at[rows]
    votes = [_chosen(column, rows) for column in votes]
    gold = np.array([kind == "gold" for kind in items[1]], bool)[at] if len(items[0]) else np.zeros(0, bool)
    right = np.full(len(rows), -1)
    if gold.any():
        right[gold] = _gold_answers(connection, study, [votes[0][i] for i in np.flatnonzero(gold).tolist()])
    orders = _padded(json.loads(f"[{','.join(votes[4])}]"), study.kind)
    policy_ids = _integers([row.id for row in labels])
    person_ids = _integers([row.id for row in people])
    order_of_people = np.argsort(person_ids)
    found = _find(person_ids[order_of_people], _integers(votes[2]))
    return _build(
        study.kind,
        policies=tuple(str(row.label) for row in labels),
        people=tuple(str(row.pseudonym) for row in people),
        scales=tuple(scale.name for scale in study.scales),
        orders=orders,
        known=(known[0], _find(policy_ids, known[1]), known[2], known[3]),
        choices=votes[3],
        ratings=votes[6] if study.kind == "rating" else (),
        rankings=votes[7] if study.kind == "ranking" else (),
        group=_integers(items[2])[at],
        item=_integers(items[0])[at],
        person=order_of_people[found] if len(found) else found,
        seconds=_integers(votes[5]) / 1000,
        gold=gold,
        repeat_of=np.array([-1 if i is None else i for i in items[4]], np.int64)[at],
        right=right,
        probability=_probabilities(connection, study, _integers(items[0]), items[3])[at],
    )


def judgments_from_rows(
    rows: Iterable[Mapping[str, Any]], *, policies: Sequence[str] = (), scales: Sequence[str] = ()
) -> Judgments:
    """Return the votes of rows, as `rlalign.feedback.progress.votes` returns them and exports hold them.

    Args:
        rows: votes; `selection_prob`, `right` and `source` are optional.
        policies: labels in their order; those of the rows in alphabetical order if it is empty.
        scales: names of the scales; those of the first rating if it is empty.

    Raises:
        UserError: the rows are of several kinds, or verdicts of LLM judges.
    """
    listed = list(rows)
    if any(row.get("source", "person") == "judge" for row in listed):
        raise UserError(
            "expected votes of people, got answers of an LLM judge; use rlalign.feedback.statistics.judges for them"
        )
    kinds = {row["kind"] for row in listed}
    if len(kinds) > 1:
        raise UserError(f"expected votes of one kind, got {', '.join(sorted(kinds))}; use one file per kind")
    kind: Kind = next(iter(kinds), "pair")
    labels = tuple(policies) or tuple(sorted({p for row in listed for p in row["policies"] if p is not None}))
    people = tuple(dict.fromkeys(str(row["annotator"]) for row in listed))
    numbers = {name: i for i, name in enumerate(people)}
    # completions get ids in the order of (policy, text), so that the canonical order does not depend on the screen
    indices = {label: i for i, label in enumerate(labels)}
    shown = [
        [(indices.get(p, -1), text) for p, text in zip(row["policies"], row["completions"], strict=True)]
        for row in listed
    ]
    unique = sorted({entry for entries in shown for entry in entries})
    ids = {entry: i for i, entry in enumerate(unique)}
    if not scales:
        scales = next((tuple(row["ratings"]) for row in listed if row["ratings"]), ())
    return _build(
        kind,
        policies=labels,
        people=people,
        scales=tuple(scales),
        orders=_padded([[ids[entry] for entry in entries] for entries in shown], kind),
        known=(
            np.arange(len(unique)),
            _integers([policy for policy, _ in unique]),
            _integers([len(text) for _, text in unique]),
            np.array([markdown_counts(text) for _, text in unique], np.int64).reshape(-1, len(STYLES)),
        ),
        choices=[row["choice"] for row in listed],
        ratings=[row["ratings"] for row in listed] if kind == "rating" else (),
        rankings=[row["ranking"] for row in listed] if kind == "ranking" else (),
        group=_integers([row["group"] for row in listed]),
        item=_integers([row["item"] for row in listed]),
        person=_integers([numbers[str(row["annotator"])] for row in listed]),
        seconds=np.array([row["active_ms"] for row in listed], np.float64) / 1000,
        gold=np.array([row["gold"] for row in listed], bool),
        repeat_of=_integers([-1 if row["repeat_of"] is None else row["repeat_of"] for row in listed]),
        right=_integers([-1 if row.get("right") is None else int(row["right"]) for row in listed]),
        probability=np.array([row.get("selection_prob", 1.0) for row in listed], np.float64),
    )


def _build(
    kind: Kind, *, scales: tuple[str, ...], orders: IntArray, known: tuple[IntArray, IntArray, IntArray, IntArray],
    choices: Sequence[str], ratings: Sequence[Any], rankings: Sequence[Any], **columns: Any,
) -> Judgments:  # fmt: skip
    """Return votes whose completions are put into canonical order.

    Args:
        kind: of the votes.
        scales: names.
        orders: ids of the completions in the order on the screen; -1 for no completion, [N, K].
        known: ids in ascending order, policies, lengths and Markdown counts of the completions.
        choices: answers on the sides of the screen.
        ratings: of each vote, points by scale, as JSON or as a mapping, or None; empty in other kinds.
        rankings: of each vote, ranks by label, as JSON or as a mapping, or None; empty in other kinds.
        columns: the other fields.
    """
    at = _find(known[0], orders)  # [N, K]
    missing = at < 0
    policy = np.where(missing, -1, _at(known[1], at))
    # lexsort sorts by its last key first: absent completions stand at the end
    canonical = np.lexsort((orders, policy, missing), axis=1)
    skipped = np.array([choice == "skip" for choice in choices], bool)
    outcome = np.where(skipped, SKIP, _OTHER)
    if kind == "pair":
        left = {"a": WIN, "b": LOSS, "tie": TIE, "bad": BAD, "skip": SKIP}
        outcome = _integers([left[choice] for choice in choices])
        swapped = (canonical[:, 0] == 1) & (outcome <= WIN)
        outcome = np.where(swapped, WIN - outcome, outcome)
    ranks = np.zeros(orders.shape, np.int64)
    points = np.zeros((len(orders), len(scales)), np.int64)
    for row, rating in enumerate(ratings):
        values = json.loads(rating) if isinstance(rating, str) else rating or {}
        points[row] = [values.get(scale, 0) for scale in scales]
    for row, ranking in enumerate(rankings):
        values = json.loads(ranking) if isinstance(ranking, str) else ranking or {}
        for label, rank in values.items():
            ranks[row, LABELS.index(label)] = rank
    absent = np.take_along_axis(missing, canonical, 1)
    ordered = np.take_along_axis(at, canonical, 1)
    return Judgments(
        kind=kind,
        scales=scales,
        policy=np.take_along_axis(policy, canonical, 1),
        place=np.where(absent, -1, canonical),
        outcome=outcome,
        ranks=np.take_along_axis(ranks, canonical, 1),
        ratings=points,
        length=np.where(absent, 0, _at(known[2], ordered)),
        markdown=np.where(absent[..., None], 0, _at(known[3], ordered)),
        **columns,
    )


def _completions(connection: sa.Connection, query: sa.Select[Any]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Return id, id of the policy (-1: none), length and Markdown counts of each completion, by ascending id."""
    ids: list[int] = []
    policies: list[int] = []
    lengths: list[int] = []
    counts: list[tuple[int, int, int]] = []
    # in parts, so that the texts of a large study are never in memory at once
    for part in connection.execute(query.order_by(tables.completion.c.id)).partitions(10_000):
        for number, policy, text in part:
            ids.append(number)
            policies.append(-1 if policy is None else policy)
            lengths.append(len(text))
            counts.append(markdown_counts(text))
    return _integers(ids), _integers(policies), _integers(lengths), np.array(counts, np.int64).reshape(-1, len(STYLES))


def _gold_answers(connection: sa.Connection, study: Study, ids: Sequence[int]) -> IntArray:
    """Return 1 or 0 for right and wrong answers of votes on gold items, -1 for skips, in the order of their ids."""
    vote, item = tables.vote, tables.item
    query = sa.select(vote, item.c.answer).join(item, item.c.id == vote.c.item).where(item.c.kind == "gold")
    right = {
        row.id: -1 if row.choice == "skip" else int(is_right_on_screen(study, row))
        for row in connection.execute(query.where(vote.c.kind == study.kind))
    }
    return _integers([right[number] for number in ids])


def _columns(connection: sa.Connection, query: sa.Select[Any], number: int) -> list[Sequence[Any]]:
    """Return the columns of a query."""
    columns: list[Sequence[Any]] = list(zip(*connection.execute(query).all(), strict=True))
    return columns or [() for _ in range(number)]


def _padded(orders: Sequence[Sequence[int]], kind: Kind) -> IntArray:
    """Return lists of ids as an array of K columns, filled up with -1: K is 2 for pairs and 1 for ratings."""
    width = {"pair": 2, "rating": 1}.get(kind) or max(map(len, orders), default=2)
    if all(len(order) == width for order in orders):
        return np.array(orders, np.int64).reshape(-1, width)
    return np.array([[*order, *[-1] * (width - len(order))] for order in orders], np.int64)


def _integers(values: Iterable[int]) -> IntArray:
    return np.array(values if isinstance(values, list | tuple) else list(values), np.int64)


def _chosen(column: Sequence[Any], rows: IntArray) -> Sequence[Any]:
    return column if len(rows) == len(column) else [column[i] for i in rows]


def _probabilities(connection: sa.Connection, study: Study, items: IntArray, stored: Sequence[float]) -> FloatArray:
    """Return the selection probability of each item, up to a factor; that of all batches together, not of its own."""
    if study.selection != "uncertainty":
        return np.array(stored, np.float64)
    from rlalign.feedback.enrollment import read_selected  # which imports statistics

    selected = read_selected(connection)
    weights = np.ones(len(items))  # of gold items and repetitions, which no batch selects
    at = _find(selected.item, items)
    weights[at >= 0] = selected.weight[at[at >= 0]]
    return 1.0 / np.where(weights > 0, weights, 1.0)


def _find(known: IntArray, values: IntArray) -> IntArray:
    """Return the index of each value in ascending numbers, -1 if it is not among them."""
    if not len(known):
        return np.full(values.shape, -1)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[at] == values, at, -1)


def _at(column: IntArray, indices: IntArray) -> IntArray:
    """Return entries of a column, which may be empty if all indices are -1."""
    return column[indices] if len(column) else np.zeros((*indices.shape, *column.shape[1:]), np.int64)
