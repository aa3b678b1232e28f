"""Counts of a study and of its annotators, and the votes as rows, for the administrator."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.people import TRIES, completion_code, is_right
from rlalign.feedback.store import now_ms
from rlalign.feedback.study import LABELS, Study
from rlalign.feedback.tables import annotator, comment, completion, item, lease, policy, prompt, session, study, vote
from rlalign.feedback.votes import stands


def counted_votes() -> sa.Select[Any]:
    """Return the query of the votes of people that stand: not undone, not superseded, not withdrawn."""
    return sa.select(vote).where(vote.c.source == "person", vote.c.withdrawn == 0, stands())


def is_finished(connection: sa.Connection) -> bool:
    """Return True if the stop rule has ended a study, or no place is left and no item is on a screen."""
    if connection.execute(sa.select(study.c.state)).scalar_one() == "complete":
        return True
    left = sa.select(item.c.id).where(item.c.needed > 0, item.c.free > 0).limit(1)
    waiting = sa.select(lease.c.id).join(item, item.c.id == lease.c.item)
    waiting = waiting.where(lease.c.state == "open", item.c.needed > 0).limit(1)
    return connection.execute(left).first() is None and connection.execute(waiting).first() is None


def progress(connection: sa.Connection) -> dict[str, Any]:
    """Return the counts of a study.

    Returns:
        `items`, `done_items` (all their votes are there), `votes` (that count), `needed` (places of all items), `open`
        (items on somebody's screen), `rate_per_day` (votes of the last 24 hours), `state` (open,
        paused, complete), `paused` and `looks`.
    """
    counting = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(item.c.needed), 0), sa.func.coalesce(sa.func.sum(item.c.free), 0)
    ).where(item.c.needed > 0)
    items, needed, free = connection.execute(counting).one()
    left = sa.select(item.c.id).where(item.c.needed > 0, item.c.free > 0)
    unfinished = set(connection.execute(left).scalars())
    waiting = sa.select(lease.c.item).join(item, item.c.id == lease.c.item)
    open_items = connection.execute(waiting.where(lease.c.state == "open", item.c.needed > 0)).scalars().all()
    counted = counted_votes().where(vote.c.at > now_ms() - 86_400_000, vote.c.choice != "skip").subquery()
    recent = sa.select(sa.func.count()).select_from(counted.join(item, item.c.id == counted.c.item))
    recent = recent.where(item.c.needed > 0)
    row = connection.execute(sa.select(study)).one()
    return {
        "items": items,
        "done_items": items - len(unfinished | set(open_items)),
        "votes": needed - free - len(open_items),
        "needed": needed,
        "open": len(open_items),
        "rate_per_day": connection.execute(recent).scalar_one(),
        "state": row.state,
        "paused": row.state == "paused",
        "looks": row.looks,
    }


def annotators(connection: sa.Connection, described: Study) -> list[dict[str, Any]]:
    """Return the figures of each annotator: state, votes, skips, working time, median time, right gold answers, code.

    Links for a crowd are among them, with the state "crowd".
    """
    times: dict[int, list[int]] = defaultdict(list)
    votes: dict[int, int] = defaultdict(int)
    skips: dict[int, int] = defaultdict(int)
    gold: dict[int, list[bool]] = defaultdict(list)
    stored = counted_votes().subquery()
    query = sa.select(stored, item.c.kind.label("item_kind"), item.c.answer).join(item, item.c.id == stored.c.item)
    for row in connection.execute(query):
        if row.item_kind in ("practice", "check"):
            continue
        if row.choice == "skip":
            skips[row.annotator] += 1
            continue
        votes[row.annotator] += 1
        times[row.annotator].append(row.active_ms)
        if row.item_kind == "gold":
            gold[row.annotator].append(is_right_on_screen(described, row))
    worked = sa.select(session.c.annotator, sa.func.sum(session.c.active_ms)).group_by(session.c.annotator)
    minutes = {person: int(total) / 60_000 for person, total in connection.execute(worked)}
    people = connection.execute(
        sa.select(annotator).where(annotator.c.scope.in_(("annotator", "crowd"))).order_by(annotator.c.id)
    ).all()
    return [
        {
            "id": p.id,
            "pseudonym": p.pseudonym,
            "state": _state(p, described),
            "votes": votes[p.id],
            "skips": skips[p.id],
            "active_minutes": round(minutes.get(p.id, 0.0), 1),
            "median_s": round(statistics.median(times[p.id]) / 1000, 1) if times[p.id] else None,
            "gold_right": sum(gold[p.id]),
            "gold_total": len(gold[p.id]),
            "code": completion_code(described, p),
            "created": p.created,
            "expires": p.expires,
        }
        for p in people
    ]


def is_right_on_screen(described: Study, row: Any) -> bool:
    """Return True if a vote on a gold question is right: its answer names the stored order, the vote the shown one."""
    shown = json.loads(row.order_json)
    stored = sorted(shown)  # completions of an example are stored in the order of study.toml
    answer = row.answer.lower()
    if described.kind != "rating" and answer in LABELS[: len(shown)].lower():
        answer = LABELS[shown.index(stored[LABELS.lower().index(answer)])].lower()
    return is_right(described, answer, row)


def _state(person: Any, described: Study) -> str:
    if person.forgotten is not None:
        return "forgotten"
    if person.withdrawn is not None:
        return "withdrawn"
    if person.revoked is not None:
        return "revoked"
    if person.expires is not None and person.expires <= now_ms():
        return "expired"
    if person.scope == "crowd":
        return "crowd"
    if described.check and not person.passed and person.tries >= TRIES:
        return "failed"
    return "active" if person.consent_version is not None else "invited"


def votes(connection: sa.Connection, *, comments: bool = True) -> Iterator[dict[str, Any]]:
    """Return the votes that count as rows: prompt, completions with their policies in the order on the screen, answer.

    The annotator is the pseudonym; the internal number is never exported.

    Args:
        connection: a snapshot.
        comments: include the comments.
    """
    stored = counted_votes().subquery()
    query = (
        sa.select(
            stored, annotator.c.pseudonym, item.c.kind.label("item_kind"), item.c.repeat_of, prompt, comment.c.text
        )
        .join(annotator, annotator.c.id == stored.c.annotator)
        .join(item, item.c.id == stored.c.item)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .outerjoin(comment, comment.c.vote == stored.c.id)
        .where(item.c.kind.not_in(("practice", "check")))
        .order_by(stored.c.id)
    )
    texts = sa.select(completion, policy.c.label).outerjoin(policy, policy.c.id == completion.c.policy_id)
    known = {c.id: c for c in connection.execute(texts)}
    for row in connection.execute(query):
        shown = [known[i] for i in json.loads(row.order_json)]
        yield {
            "vote": row.id,
            "item": row.item,
            "repeat_of": row.repeat_of,
            "gold": row.item_kind == "gold",
            "prompt": json.loads(row.messages_json),
            "group": row.group_id,
            "split": row.split,
            "language": row.language,
            "completions": [c.text for c in shown],
            "policies": [c.label for c in shown],
            "cut": [c.finish == "length" for c in shown],
            "kind": row.kind,
            "choice": row.choice,
            "ratings": json.loads(row.ratings_json) if row.ratings_json else None,
            "ranking": json.loads(row.ranking_json) if row.ranking_json else None,
            "annotator": row.pseudonym,
            "at": row.at,
            "active_ms": row.active_ms,
            "elapsed_ms": row.elapsed_ms,
            "seen": None if row.seen < 0 else bool(row.seen),
            "unfolded": bool(row.unfolded),
            **({"comment": row.text} if comments else {}),
        }
