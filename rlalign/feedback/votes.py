"""Votes: append-only rows, idempotent by their lease, and undone by a row that supersedes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.errors import Conflict, Invalid, NotFound
from rlalign.feedback.statements import Prepared
from rlalign.feedback.store import now_ms
from rlalign.feedback.study import CHOICES, LABELS, Study
from rlalign.feedback.tables import annotator, comment, item, lease, session, vote

COMMENT_LIMIT = 2000
UNDO_MS = 10 * 60_000
"""Time in which a vote can be undone."""
_SESSION_MS = 30 * 60_000
"""A pause of this length begins a new session."""


# statements are built once: building one takes longer than executing it
_find_lease = Prepared(
    sa.select(lease, item.c.kind, item.c.needed)
    .join(item, item.c.id == lease.c.item)
    .where(lease.c.id == sa.bindparam("lease_id"))
    .with_for_update(of=lease)  # of PostgreSQL: two requests of one person wait for each other
)
_add_vote = Prepared(sa.insert(vote).returning(vote.c.id))
_finish_lease = Prepared(sa.update(lease).where(lease.c.id == sa.bindparam("lease_id")).values(state="done"))
_add_place = Prepared(
    sa.update(item).where(item.c.id == sa.bindparam("item_id"), item.c.needed > 0).values(free=item.c.free + 1)
)
_count = Prepared(
    sa.update(annotator)
    .where(annotator.c.id == sa.bindparam("person"))
    .values(
        since_break=annotator.c.since_break + 1,
        since_break_ms=annotator.c.since_break_ms + sa.bindparam("active"),
        done=annotator.c.done + sa.bindparam("counted"),
        explained=sa.bindparam("explanation"),
    )
)
_find_session = Prepared(
    sa.select(session.c.id, session.c.end)
    .where(session.c.annotator == sa.bindparam("person"))
    .order_by(session.c.id.desc())
    .limit(1)
)
_extend_session = Prepared(
    sa.update(session)
    .where(session.c.id == sa.bindparam("session_id"))
    .values(end=sa.bindparam("until"), active_ms=session.c.active_ms + sa.bindparam("active"))
)


@dataclass(frozen=True, slots=True)
class Ballot:
    """An answer to an item, as it was sent.

    Attributes:
        choice: of a pair, or "skip"; empty for ratings and rankings.
        ratings: name of a scale -> point.
        ranking: label of a completion -> rank from 1; equal ranks are ties.
        comment: a text.
        active_ms: time in which the page was visible, as the browser measured it; None if it did not.
        seen: every completion was on the screen to its end; None if the browser does not say.
        unfolded: folded completions were unfolded.
    """

    choice: str = ""
    ratings: Mapping[str, int] = field(default_factory=dict)
    ranking: Mapping[str, int] = field(default_factory=dict)
    comment: str = ""
    active_ms: int | None = None
    seen: bool | None = None
    unfolded: bool = False

    def digest(self) -> str:
        """Return the digest of what was answered. The measured times have no part in it."""
        answer = [self.choice, sorted(self.ratings.items()), sorted(self.ranking.items()), self.comment]
        return hashlib.sha256(json.dumps(answer).encode()).hexdigest()[:32]


def check_ballot(ballot: Ballot, study: Study, completions: int) -> None:
    """Check an answer against the kind of the study.

    Raises:
        Invalid: names the field.
    """
    if len(ballot.comment) > COMMENT_LIMIT:
        raise Invalid("comment", f"expected at most {COMMENT_LIMIT} characters, got {len(ballot.comment)}")
    if "\x00" in ballot.comment:
        raise Invalid("comment", "expected a text, got one with a NUL character")
    foreign = {"pair": ("ratings", "ranking"), "rating": ("ranking",), "ranking": ("ratings",)}[study.kind]
    for name in ("ratings", "ranking") if ballot.choice == "skip" else foreign:
        if getattr(ballot, name):
            raise Invalid(name, "expected nothing in this kind of item")
    if ballot.choice == "skip":
        return
    if study.kind != "pair" and ballot.choice:
        raise Invalid("choice", "expected nothing but skip in this kind of item")
    if study.kind == "pair":
        if ballot.choice not in CHOICES:
            raise Invalid("choice", f"expected one of {', '.join(CHOICES)}")
    elif study.kind == "rating":
        for scale in study.scales:
            if scale.name not in ballot.ratings:
                raise Invalid(f"ratings.{scale.name}", "expected a rating, got none")
            if not 1 <= ballot.ratings[scale.name] <= scale.points:
                raise Invalid(f"ratings.{scale.name}", f"expected 1 to {scale.points}")
        if extra := set(ballot.ratings) - {scale.name for scale in study.scales}:
            raise Invalid("ratings", f"unknown scale '{sorted(extra)[0][:40]}'")
    else:
        labels = LABELS[:completions]
        if set(ballot.ranking) != set(labels):
            raise Invalid("ranking", f"expected a rank for each of {', '.join(labels)}")
        if not all(1 <= rank <= completions for rank in ballot.ranking.values()):
            raise Invalid("ranking", f"expected ranks from 1 to {completions}")


def record(
    connection: sa.Connection, study: Study, person: Any, lease_id: int, ballot: Ballot, guidelines_hash: str
) -> int:
    """Store the answer to a lease and return the id of the vote.

    The same answer again returns the same vote.

    Args:
        connection: inside a transaction.
        study: the study.
        person: the row of the annotator.
        lease_id: the lease.
        ballot: the answer.
        guidelines_hash: of the guidelines that the annotator saw.

    Raises:
        NotFound: the lease is not this annotator's.
        Conflict: the item was answered otherwise, or the lease has expired.
        Invalid: the answer does not fit the study.
    """
    row = _find_lease(connection, lease_id=lease_id).one_or_none()
    if row is None or row.annotator != person.id:
        raise NotFound("lease", "no such item of yours")
    order = json.loads(row.order_json)
    check_ballot(ballot, study, len(order))
    if row.state == "done":
        last = current_vote(connection, lease_id)
        if last is not None and last.body_hash == ballot.digest():
            return int(last.id)
        raise Conflict("answered", "this item was answered otherwise; undo that vote first")
    if row.state != "open":
        raise Conflict("expired", "the time for this item is over; it was given to somebody else")
    at = now_ms()
    elapsed = max(0, at - row.given)
    measured = elapsed if ballot.active_ms is None else ballot.active_ms
    active = min(max(0, measured), elapsed)
    values = {
        "lease": lease_id, "item": row.item, "annotator": person.id, "kind": study.kind, "choice": ballot.choice,
        "ratings_json": json.dumps(dict(ballot.ratings)) if ballot.ratings else None,
        "ranking_json": json.dumps(dict(ballot.ranking)) if ballot.ranking else None,
        "order_json": row.order_json, "at": at, "elapsed_ms": elapsed, "active_ms": active,
        "seen": -1 if ballot.seen is None else int(ballot.seen), "unfolded": int(ballot.unfolded),
        "guidelines_hash": guidelines_hash, "source": "person", "body_hash": ballot.digest(),
    }  # fmt: skip
    vote_id = int(_add_vote(connection, **values).scalar_one())
    if ballot.comment.strip():
        connection.execute(sa.insert(comment).values(vote=vote_id, text=ballot.comment))
    _finish_lease(connection, lease_id=lease_id)
    if ballot.choice == "skip":  # a skip is no judgement: somebody else gets the item
        give_back(connection, [row.item])
    counts = {
        "person": person.id,
        "active": active,
        "counted": int(row.kind not in ("practice", "check")),
        "explanation": vote_id if row.kind == "practice" else None,
    }
    _count(connection, **counts)
    _add_to_session(connection, person.id, at, active, row.given)
    return vote_id


def stands() -> sa.ColumnElement[bool]:
    """Return the condition that a row of `vote` is an answer that no later row undoes."""
    later = vote.alias()
    undone = sa.select(later.c.id).where(later.c.supersedes == vote.c.id)
    return sa.and_(vote.c.kind != "undo", ~sa.exists(undone))


def current_vote(connection: sa.Connection, lease_id: int) -> Any:
    """Return the vote of a lease that no other row supersedes; None if there is none."""
    return connection.execute(sa.select(vote).where(vote.c.lease == lease_id, stands())).one_or_none()


def last_vote(connection: sa.Connection, annotator_id: int) -> Any:
    """Return the vote of an annotator that can be undone; None if there is none."""
    query = sa.select(vote).where(vote.c.annotator == annotator_id).order_by(vote.c.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    undoable = row is not None and row.kind != "undo" and not row.withdrawn and now_ms() - row.at <= UNDO_MS
    return row if undoable else None


def undo(connection: sa.Connection, person: Any, vote_id: int, lease_ms: int) -> int:
    """Undo the last vote of an annotator, who gets the item again; return its lease.

    Raises:
        NotFound: the vote is not this annotator's.
        Conflict: it is not the last one, it was too long ago, or the item was completed by others.
    """
    mine = connection.execute(sa.select(vote.c.annotator).where(vote.c.id == vote_id)).scalar_one_or_none()
    if mine != person.id:
        raise NotFound("vote", "no such vote of yours")
    row = last_vote(connection, person.id)
    if row is None or row.id != vote_id:
        raise Conflict("not last", "only the last vote can be undone, within ten minutes")
    kind = connection.execute(sa.select(item.c.kind, item.c.needed).where(item.c.id == row.item)).one()
    if kind.kind in ("practice", "check"):
        raise Conflict("practice", "an answer of the practice cannot be undone")
    at = now_ms()
    release(connection, person.id)  # the item that was given meanwhile
    if row.choice == "skip" and kind.needed > 0:
        query = sa.update(item).where(item.c.id == row.item, item.c.free > 0).values(free=item.c.free - 1)
        if connection.execute(query).rowcount != 1:
            raise Conflict("complete", "this item was completed by others meanwhile")
    connection.execute(
        sa.insert(vote).values(
            lease=row.lease, item=row.item, annotator=person.id, kind="undo", choice="", order_json=row.order_json,
            at=at, elapsed_ms=0, active_ms=0, seen=-1, unfolded=0, guidelines_hash=row.guidelines_hash,
            source="person", supersedes=row.id, body_hash="",
        )
    )  # fmt: skip
    again = {"state": "open", "given": at, "expires": at + lease_ms, "visible_ms": 0}
    connection.execute(sa.update(lease).where(lease.c.id == row.lease).values(**again))
    least = sa.func.greatest if connection.dialect.name == "postgresql" else sa.func.max
    values = {
        "done": annotator.c.done - 1,
        "explained": None,
        "since_break": least(annotator.c.since_break - 1, 0),
        "since_break_ms": least(annotator.c.since_break_ms - row.active_ms, 0),
    }
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))
    return int(row.lease)


def release(connection: sa.Connection, annotator_id: int) -> None:
    """Give back the open lease of an annotator, if there is one, without an answer."""
    query = sa.select(lease.c.id, lease.c.item).where(lease.c.annotator == annotator_id, lease.c.state == "open")
    row = connection.execute(query.with_for_update()).one_or_none()  # a vote of another tab waits, or came first
    if row is None:
        return
    give_back(connection, [row.item])
    # the row is removed, so that the annotator can get this item again; it has no vote, unless one was undone
    has_vote = connection.execute(sa.select(vote.c.id).where(vote.c.lease == row.id).limit(1)).first()
    if has_vote:
        connection.execute(sa.update(lease).where(lease.c.id == row.id).values(state="expired"))
    else:
        connection.execute(sa.delete(lease).where(lease.c.id == row.id))


def expire(connection: sa.Connection) -> int:
    """Give back the items of all leases whose time is over, and return their number."""
    query = sa.select(lease.c.id, lease.c.item).where(lease.c.state == "open", lease.c.expires <= now_ms())
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    if rows:
        connection.execute(sa.update(lease).where(lease.c.id.in_([r.id for r in rows])).values(state="expired"))
        give_back(connection, [r.item for r in rows])
    return len(rows)


def give_back(connection: sa.Connection, items: Iterable[int]) -> None:
    """Count one more free place of each item that needs votes."""
    for item_id in sorted(items):  # in order, so that two transactions of PostgreSQL do not wait for each other
        _add_place(connection, item_id=item_id)


def _add_to_session(connection: sa.Connection, annotator_id: int, at: int, active: int, start: int) -> None:
    """Add working time to the session of an annotator, or begin one."""
    row = _find_session(connection, person=annotator_id).one_or_none()
    if row is not None and at - row.end <= _SESSION_MS:
        _extend_session(connection, session_id=row.id, until=at, active=active)
    else:
        begin = {"annotator": annotator_id, "start": start, "end": at, "active_ms": active}
        connection.execute(sa.insert(session).values(**begin))
