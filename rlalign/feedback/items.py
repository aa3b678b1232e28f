"""The next item of an annotator: a lease, which expires and returns the item.

A new item is chosen and given in one statement on PostgreSQL, and in one turn of the writer on SQLite. The number of
free places stands in the row of the item, so that votes are never counted to choose one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.errors import Conflict, NotFound
from rlalign.feedback.selection import SELECTIONS, Statement
from rlalign.feedback.statements import Prepared
from rlalign.feedback.store import insert_returning_id, now_ms
from rlalign.feedback.study import Study
from rlalign.feedback.tables import annotator, completion, item, lease, prompt, vote
from rlalign.feedback.votes import expire, stands

_REPEAT_AFTER = 10
"""Items between an item and its repetition."""


_find_open_lease = Prepared(
    sa.select(lease).where(lease.c.annotator == sa.bindparam("person"), lease.c.state == "open")
)
_find_item = Prepared(sa.select(item).where(item.c.id == sa.bindparam("item_id")))
_take_place = Prepared(sa.update(item).where(item.c.id == sa.bindparam("item_id")).values(free=item.c.free - 1))
_add_lease = Prepared(sa.insert(lease).returning(*lease.c))
_set_order = Prepared(
    sa.update(lease)
    .where(lease.c.id == sa.bindparam("lease_id"))
    .values(order_json=sa.bindparam("order"))
    .returning(*lease.c)
)
_shift_sides = Prepared(
    sa.update(annotator)
    .where(annotator.c.id == sa.bindparam("person"))
    .values(sides=annotator.c.sides + sa.bindparam("shift"))
)
_find_content = Prepared(
    sa.select(
        item.c.kind, item.c.answer, item.c.explanation, item.c.prompt_id, prompt.c.messages_json, prompt.c.language
    )
    .join(prompt, prompt.c.id == item.c.prompt_id)
    .where(item.c.id == sa.bindparam("item_id"))
)
_find_completions = Prepared(
    sa.select(completion.c.id, completion.c.text, completion.c.finish).where(
        completion.c.prompt_id == sa.bindparam("prompt_id")
    )
)


def next_item(connection: sa.Connection, study: Study, person: Any) -> Any:
    """Return the row of the open lease of an annotator, with a new item if there was none; None if none is left.

    An item that was given before comes again, so that a reload or a second tab shows the same one.

    Args:
        connection: inside a transaction.
        study: the study.
        person: the row of the annotator, with the `study_state` (see `rlalign.feedback.people.signed_in`).
    """
    row = _find_open_lease(connection, person=person.id).one_or_none()
    if row is not None:
        if row.expires > now_ms():
            return row
        expire(connection)
    if person.study_state == "complete":
        return None
    lease_ms = int(study.lease_minutes * 60_000)
    for kind in ("practice", "check"):
        if getattr(study, kind) and not person.passed:
            chosen = _unseen(connection, person, kind)
            if chosen is not None:
                return _give(connection, study, person, chosen, lease_ms)
    if study.items_per_person and person.done >= study.items_per_person:
        return None
    special = _gold_or_repetition(connection, study, person)
    if special is not None:
        return _give(connection, study, person, special, lease_ms)
    for attempt in range(2):
        for query, parameters in SELECTIONS[study.selection](random.Random(f"{person.seed}:{now_ms()}")):
            given = _take(connection, study, query, parameters, person, lease_ms)
            if given is not None:
                return given
        # somebody's item may have returned
        if attempt or not expire(connection):
            break
    return None


def left_for(connection: sa.Connection, study: Study, person: Any, most: int = 500) -> int:
    """Return how many items are left for an annotator, counted up to a limit."""
    if person.study_state == "complete":
        return 0
    if study.items_per_person:
        most = min(most, max(0, study.items_per_person - person.done))
    if most == 0:
        return 0
    had = sa.select(lease.c.id).where(
        lease.c.annotator == person.id, lease.c.item == item.c.id, lease.c.state != "open"
    )
    # the item on the screen has given up a place for this person, and still counts
    mine = sa.select(lease.c.item).where(lease.c.annotator == person.id, lease.c.state == "open")
    free = sa.select(item.c.id).where(item.c.needed > 0, sa.or_(item.c.free > 0, item.c.id.in_(mine)), ~sa.exists(had))
    return int(connection.execute(sa.select(sa.func.count()).select_from(free.limit(most).subquery())).scalar_one())


def heartbeat(connection: sa.Connection, person: Any, lease_id: int, visible_ms: int, lease_ms: int) -> int:
    """Extend a lease whose page is on the screen, and return its new end.

    Raises:
        NotFound: the lease is not this annotator's.
        Conflict: it is not open.
    """
    row = connection.execute(sa.select(lease).where(lease.c.id == lease_id)).one_or_none()
    if row is None or row.annotator != person.id:
        raise NotFound("lease", "no such item of yours")
    if row.state != "open":
        raise Conflict("expired", "the time for this item is over; it was given to somebody else")
    expires = now_ms() + lease_ms
    values = {"expires": expires, "visible_ms": max(row.visible_ms, min(visible_ms, now_ms() - row.given))}
    connection.execute(sa.update(lease).where(lease.c.id == lease_id).values(**values))
    return expires


def _take(
    connection: sa.Connection, study: Study, query: Statement, parameters: Mapping[str, Any], person: Any, lease_ms: int
) -> Any:
    """Give the item of a query away and return the row of the lease; None if the query finds none."""
    at = now_ms()
    if connection.dialect.name == "postgresql":
        values = {"person": person.id, "given": at, "expires": at + lease_ms, **parameters}
        row = _take_in_one_statement(query)(connection, **values).one_or_none()
        if row is None:
            return None
        content = _find_item(connection, item_id=row.item).one()
        order = _order(connection, study, person, content)
        return _set_order(connection, lease_id=row.id, order=order).one()
    chosen = _prepared(query)(connection, person=person.id, **parameters).one_or_none()
    if chosen is None:
        return None
    _take_place(connection, item_id=chosen.id)
    return _insert_lease(connection, chosen.id, person.id, at, lease_ms, _order(connection, study, person, chosen))


@cache
def _prepared(query: Statement) -> Prepared:
    return Prepared(query)


@cache
def _take_in_one_statement(query: Statement) -> Prepared:
    """Return the statement of PostgreSQL that gives the item of a query away.

    Between two statements, another transaction could take the last place.
    """
    picked = query.with_for_update(of=item, skip_locked=True).cte("picked")
    taken = (
        sa.update(item)
        .where(item.c.id == picked.c.id, item.c.free > 0)
        .values(free=item.c.free - 1)
        .returning(item.c.id)
        .cte("taken")
    )
    columns = ["item", "annotator", "given", "expires", "state", "order_json"]
    numbers = (sa.bindparam(name, type_=sa.BigInteger) for name in ("person", "given", "expires"))
    values = sa.select(taken.c.id, *numbers, sa.literal("open"), sa.literal("[]"))
    return Prepared(sa.insert(lease).from_select(columns, values, include_defaults=False).returning(*lease.c))


def _insert_lease(
    connection: sa.Connection, item_id: int, annotator_id: int, at: int, lease_ms: int, order: str
) -> Any:
    values = {"item": item_id, "annotator": annotator_id, "given": at, "expires": at + lease_ms, "state": "open"}
    return _add_lease(connection, **values, order_json=order).one()


def _give(connection: sa.Connection, study: Study, person: Any, item_id: int, lease_ms: int) -> Any:
    """Give an item that needs no number of votes: practice, check, gold, a repetition."""
    again = sa.select(lease).where(lease.c.annotator == person.id, lease.c.item == item_id)
    row = connection.execute(again).one_or_none()
    at = now_ms()
    if row is None:
        order = _order(connection, study, person, _find_item(connection, item_id=item_id).one())
        return _insert_lease(connection, item_id, person.id, at, lease_ms, order)
    # the second try of a check, or an item whose time was over
    values = {"state": "open", "given": at, "expires": at + lease_ms, "visible_ms": 0}
    query = sa.update(lease).where(lease.c.id == row.id).values(**values).returning(*lease.c)
    return connection.execute(query).one()


def _order(connection: sa.Connection, study: Study, person: Any, content: Any) -> str:
    """Return the completions of an item in their order on the screen, as JSON.

    The sides of a pair of policies are balanced for each annotator; else the order is drawn.
    """
    ids = json.loads(content.completion_ids)
    rng = random.Random(f"{person.seed}:{content.id}")
    if study.kind == "pair" and content.needed > 0:
        # Efron's biased coin (1971, Biometrika 58:403-417): balanced in the long run, and not to be foreseen
        swap = rng.random() < (0.5 if person.sides == 0 else 2 / 3 if person.sides > 0 else 1 / 3)
        _shift_sides(connection, person=person.id, shift=-1 if swap else 1)
        ids = ids[::-1] if swap else ids
    elif content.kind not in ("practice", "check"):  # their explanations name the labels
        rng.shuffle(ids)
    return json.dumps(ids)


def _unseen(connection: sa.Connection, person: Any, kind: str) -> int | None:
    """Return the first item of a kind that an annotator has not answered."""
    answered = sa.select(lease.c.id).where(
        lease.c.annotator == person.id, lease.c.item == item.c.id, lease.c.state == "done"
    )
    query = sa.select(item.c.id).where(item.c.kind == kind, item.c.needed == 0, ~sa.exists(answered))
    chosen: int | None = connection.execute(query.order_by(item.c.id).limit(1)).scalar_one_or_none()
    return chosen


def _gold_or_repetition(connection: sa.Connection, study: Study, person: Any) -> int | None:
    """Return a gold question or a repetition if it is time for one; the draw depends on the annotator and the count."""
    draw = random.Random(f"{person.seed}:mix:{person.done}").random()
    if draw < study.gold_share:
        return _unseen(connection, person, "gold")
    if draw < study.gold_share + study.repeat_share and person.done >= _REPEAT_AFTER:
        return _repetition(connection, person)
    return None


def _repetition(connection: sa.Connection, person: Any) -> int | None:
    """Return a repetition of an item that an annotator judged some time ago and that was not repeated for them."""
    repeated = item.alias()
    shown = lease.alias()
    again = (
        sa.select(shown.c.id)
        .join(repeated, repeated.c.id == shown.c.item)
        .where(shown.c.annotator == person.id, repeated.c.repeat_of == vote.c.item)
    )
    query = (
        sa.select(vote.c.item)
        .join(item, item.c.id == vote.c.item)
        .where(
            vote.c.annotator == person.id,
            vote.c.choice != "skip",
            item.c.needed > 0,
            stands(),
            ~sa.exists(again),
        )
        .order_by(vote.c.id.desc())
        .offset(_REPEAT_AFTER)
        .limit(1)
    )
    original = connection.execute(query).scalar_one_or_none()
    if original is None:
        return None
    stored = connection.execute(sa.select(item.c.id).where(item.c.repeat_of == original)).scalars().first()
    if stored is not None:
        return int(stored)
    row = connection.execute(sa.select(item).where(item.c.id == original)).one()
    return insert_returning_id(
        connection, item, kind=row.kind, prompt_id=row.prompt_id, completion_ids=row.completion_ids, needed=0, free=0,
        place=row.place, selection="repeat", repeat_of=original,
    )  # fmt: skip


def content_of(connection: sa.Connection, row: Any) -> dict[str, Any]:
    """Return what an annotator sees of a lease: the prompt and the completions in their order. No policy is named."""
    content = _find_content(connection, item_id=row.item).one()
    texts = {c.id: c for c in _find_completions(connection, prompt_id=content.prompt_id)}
    ids = json.loads(row.order_json)
    return {
        "lease": row.id,
        "expires": row.expires,
        "kind": content.kind,
        "answer": content.answer,
        "explanation": content.explanation,
        "messages": json.loads(content.messages_json),
        "language": content.language,
        "completions": [{"text": texts[i].text, "cut": texts[i].finish == "length"} for i in ids],
    }
