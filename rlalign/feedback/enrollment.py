"""Batches of items for the selection by uncertainty, and the weights that undo it.

A batch is planned on a snapshot, which waits for nobody, and written in one short transaction. Its items are then
given like others, each to `votes_per_item` people. `statistics/design.py` has the random design,
`statistics/weighting.py` the weights, `statistics/information.py` the scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback.errors import Conflict
from rlalign.feedback.progress import counted_votes
from rlalign.feedback.statistics import information
from rlalign.feedback.statistics.design import draw_batch
from rlalign.feedback.statistics.weighting import random_part, stratified_weights
from rlalign.feedback.store import Store, log_event
from rlalign.feedback.study import Study
from rlalign.feedback.tables import completion, item, vote
from rlalign.feedback.tables import study as study_table
from rlalign.types import BoolArray, FloatArray, IntArray

_BATCHES = 20
_SMALLEST, _LARGEST = 10, 1000
_IDS = 500
"""Ids in one query."""
_TOP = 1e9
"""Priority of the first item of the first batch; each later item has 1 less. Items of no batch have 0."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch that is not written yet.

    Attributes:
        number: of the batch, from 0.
        before: items of the batches before.
        items: ids, in the order in which they are to be given.
        probability: of each item.
        random: the item is selected at random.
        scores: where the scores come from: "fit", or "scores" that were set.
    """

    number: int
    before: int
    items: list[int]
    probability: list[float]
    random: list[bool]
    scores: str


def batch_size(items: int) -> int:
    """Return the number of items of a batch: a twentieth of the study, at least 10 and at most 1,000.

    Scores are computed again for each batch.
    """
    return min(_LARGEST, max(_SMALLEST, math.ceil(items / _BATCHES)))


def set_priorities(connection: sa.Connection, scores: Mapping[int, float]) -> None:
    """Store scores of items, to which the probabilities of selection of the next batches are proportional.

    They take the place of the fit's scores. Items without a score get the mean. A share of `random_share` is still
    selected at random, so that an item with score 0 has a chance as well. Other writers wait for the transaction: use
    several of some thousand scores each while people vote.

    Args:
        connection: inside a transaction.
        scores: id of an item -> a number of at least 0, such as the probability that two members of an ensemble of
            reward models disagree (`rlalign.feedback.statistics.information.ensemble_disagreement`).

    Raises:
        UserError: the study selects otherwise, an item is unknown, or a score is negative or not finite.
    """
    config = json.loads(connection.execute(sa.text("SELECT config_json FROM study")).scalar_one())
    if config.get("selection") != "uncertainty":
        raise UserError(
            f"expected a study with the selection 'uncertainty', got '{config.get('selection')}'; set it in study.toml "
            "before rlalign feedback sample"
        )
    for number, score in scores.items():
        if not (math.isfinite(score) and score >= 0):
            raise UserError(f"item {number}: expected a score of at least 0, got {score}; use a probability")
    known: set[int] = set()
    wanted = sorted(int(number) for number in scores)
    for start in range(0, len(wanted), _IDS):
        part = wanted[start : start + _IDS]
        known.update(connection.execute(sa.select(item.c.id).where(item.c.id.in_(part), item.c.needed > 0)).scalars())
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise UserError(f"expected ids of items of the study, got {unknown[0]}; use those of the store")
    if scores:
        query = sa.update(item).where(item.c.id == sa.bindparam("item_id")).values(score=sa.bindparam("value"))
        connection.execute(query, [{"item_id": int(k), "value": float(v)} for k, v in scores.items()])


def enroll_next(store: Store, study: Study) -> int:
    """Select the next batch if at most half of a batch's places are left; return the number of selected items.

    It is 0, too, if another process writes a batch meanwhile.
    """
    plan = store.read(lambda c: plan_batch(c, study) if _is_due(c, study) else None)
    if plan is None:
        return 0
    try:
        store.write(lambda c: enroll(c, plan)).result()
    except Conflict:
        return 0
    return len(plan.items)


def _is_due(connection: sa.Connection, study: Study) -> bool:
    items, unselected = connection.execute(
        sa.select(sa.func.count(), sa.func.count().filter(item.c.batch.is_(None))).where(item.c.needed > 0)
    ).one()
    if not unselected:
        return False
    left = sa.select(sa.func.coalesce(sa.func.sum(item.c.free), 0)).where(item.c.free > 0, item.c.priority > 0)
    return int(connection.execute(left).scalar_one()) <= batch_size(items) * study.votes_per_item / 2


def plan_batch(connection: sa.Connection, study: Study, *, size: int | None = None) -> Plan | None:
    """Return the next batch; None if each item is in one.

    Args:
        connection: a snapshot.
        study: the study of the store.
        size: number of items; None: `batch_size`.
    """
    rows = connection.execute(
        sa.select(
            item.c.id, item.c.place, item.c.score, item.c.batch, item.c.free, item.c.needed, item.c.completion_ids
        ).where(item.c.needed > 0)
    ).all()
    batches = [row.batch for row in rows if row.batch is not None]
    pool = [row for row in rows if row.batch is None]
    if not pool:
        return None
    given = any(row.score is not None for row in rows)
    if given:
        scores = _filled([row.score for row in pool])
    else:
        scores = _fit_scores(connection, study, pool, size or batch_size(len(rows)))
    number = max(batches, default=-1) + 1
    drawn = draw_batch(
        np.array([row.place for row in pool]), scores, size or batch_size(len(rows)), study.random_share,
        np.random.default_rng((study.seed, number)),
        least=sum(row.free < row.needed for row in pool),  # given in the random order, since no batch was left
    )  # fmt: skip
    return Plan(
        number, len(batches), [pool[i].id for i in drawn.items], drawn.probability.tolist(), drawn.random.tolist(),
        "scores" if given else "fit",
    )  # fmt: skip


def enroll(connection: sa.Connection, plan: Plan) -> None:
    """Write a batch: its items are given from now on.

    Args:
        connection: inside a transaction.
        plan: the batch.

    Raises:
        Conflict: another batch was written after the plan's snapshot, so that its probabilities are not those of the
            selection; plan again.
    """
    # in PostgreSQL two transactions would read the same number: the second one waits here (SQLite has one writer)
    connection.execute(sa.select(study_table.c.id).with_for_update()).all()
    last = connection.execute(sa.select(sa.func.max(item.c.batch))).scalar_one()
    following = 0 if last is None else last + 1
    if plan.number != following:
        raise Conflict("batch", f"expected a plan of batch {following}, got one of batch {plan.number}; plan it again")
    query = (
        sa.update(item)
        .where(item.c.id == sa.bindparam("item_id"), item.c.batch.is_(None))
        .values({name: sa.bindparam(f"new_{name}") for name in ("priority", "selection", "selection_prob", "batch")})
    )
    values = [
        {
            "item_id": number, "new_priority": _TOP - plan.before - rank, "new_batch": plan.number,
            "new_selection": "random" if at_random else plan.scores, "new_selection_prob": probability,
        }
        for rank, (number, probability, at_random) in enumerate(
            zip(plan.items, plan.probability, plan.random, strict=True)
        )
    ]  # fmt: skip
    connection.execute(query, values)
    detail = {"batch": plan.number, "items": len(values), "random": sum(plan.random), "scores": plan.scores}
    log_event(connection, "selection", "enroll", json.dumps(detail))


def _filled(scores: list[float | None]) -> FloatArray:
    """Return scores in which missing ones are the mean of the others."""
    values = np.array([math.nan if score is None else score for score in scores])
    known = values[~np.isnan(values)]
    return np.where(np.isnan(values), known.mean() if len(known) else 1.0, values)


def _fit_scores(connection: sa.Connection, study: Study, pool: list[Any], count: int) -> FloatArray:
    """Return a score per item: the share of the items of its pair of policies that reduces the variance fastest."""
    count_of_policies, index = _policies(connection)
    k = count_of_policies
    wins, ties = _counts(connection, k, index)
    total = wins + ties
    votes = np.triu(total + total.T, 1)
    strengths, nu = information.posterior_mode(wins, np.triu(ties + ties.T, 1))
    pairs = _pairs(pool, index)
    available = np.zeros((k, k), np.int64)
    np.add.at(available, (pairs[:, 0], pairs[:, 1]), 1)
    wanted = information.allocate(strengths, nu, votes, available, count, study.votes_per_item)
    # each item of a pair of policies has the same chance
    return wanted[pairs[:, 0], pairs[:, 1]] / available[pairs[:, 0], pairs[:, 1]]


def _policies(connection: sa.Connection) -> tuple[int, dict[int, int]]:
    """Return the number of policies, and the index of the policy of each completion."""
    owners = connection.execute(sa.select(completion.c.id, completion.c.policy_id)).all()
    index = {policy: i for i, policy in enumerate(sorted({row[1] for row in owners if row[1] is not None}))}
    return len(index), {number: index[policy] for number, policy in owners if policy is not None}


def _pairs(rows: Sequence[Any], policies: Mapping[int, int]) -> IntArray:
    """Return the indices of the policies of each pair, the smaller one first, [N, 2]."""
    # one document of JSON takes a tenth of the time of one per item
    shown = json.loads(f"[{','.join(row.completion_ids for row in rows)}]")
    return np.sort(np.array([(policies[a], policies[b]) for a, b in shown], np.int64), axis=1)


def _counts(connection: sa.Connection, k: int, policies: Mapping[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return wins[i, j] of policy i against j, and the ties; two bad completions are a tie, [K, K]."""
    wins, ties = np.zeros((k, k)), np.zeros((k, k))
    stored = counted_votes().where(vote.c.kind == "pair", vote.c.choice != "skip").subquery()
    query = sa.select(stored.c.choice, stored.c.order_json).join(item, item.c.id == stored.c.item)
    for choice, order in connection.execute(query.where(item.c.needed > 0)):
        left, right = (policies[i] for i in json.loads(order))
        if choice == "a":
            wins[left, right] += 1
        elif choice == "b":
            wins[right, left] += 1
        else:
            ties[left, right] += 1
    return wins, ties


# ---- after the votes ----


@dataclass(frozen=True, slots=True)
class Selected:
    """How the items of a study were selected. N items.

    Attributes:
        item: ids, [N].
        weight: for means over the items of a pair of policies; 0 without votes, mean 1 over the others of a pair, [N].
        random: the item is in the random part, a simple random sample of all items, and has votes, [N].
    """

    item: IntArray
    weight: FloatArray
    random: BoolArray


def read_selected(connection: sa.Connection) -> Selected:
    """Return the weights and the random part of the items of a study.

    In a study without batches, each item with votes has the weight 1 and is in the random part.

    Args:
        connection: a snapshot.
    """
    rows = connection.execute(
        sa.select(item.c.id, item.c.place, item.c.batch, item.c.selection, item.c.selection_prob, item.c.completion_ids)
        .where(item.c.needed > 0)
        .order_by(item.c.id)
    ).all()
    stored = counted_votes().where(vote.c.choice != "skip").subquery()
    with_votes = set(connection.execute(sa.select(stored.c.item).distinct()).scalars())
    numbers = np.array([row.id for row in rows], np.int64)
    judged = np.array([row.id in with_votes for row in rows], bool)
    batch = np.array([-1 if row.batch is None else row.batch for row in rows], np.int64)
    if (batch < 0).all():
        return Selected(numbers, judged.astype(float), judged)
    probability = np.array([row.selection_prob for row in rows])
    at_random = np.array([row.selection == "random" and row.batch is not None for row in rows], bool)
    by_scores = np.unique(batch[np.array([row.selection == "scores" for row in rows], bool)])
    # items that were given in the random order since the last batch: a batch of their own
    since = judged & (batch < 0)
    if since.any():
        probability[since] = since.sum() / (batch < 0).sum()
        batch[since] = batch.max() + 1
        at_random |= since
    _, policies = _policies(connection)
    pairs = _pairs(rows, policies)
    stratum = pairs[:, 0] * (pairs.max() + 1) + pairs[:, 1]
    weights = stratified_weights(batch, probability, judged, stratum, ~np.isin(batch, by_scores))
    place = np.array([row.place for row in rows])
    return Selected(numbers, weights, random_part(place, at_random) & judged)
