"""Annotators: personal links, the steps before the first item, withdrawal, forgetting and erasing.

A person is a pseudonym. Names, addresses and other contacts stand in no table: who invites people keeps the list of
pseudonyms elsewhere. Tokens and cookies are stored as digests.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback.errors import Conflict, NotFound, SignedOut
from rlalign.feedback.statements import Prepared
from rlalign.feedback.store import insert_returning_id, log_event, now_ms
from rlalign.feedback.study import Study
from rlalign.feedback.tables import annotator, comment, cookie, erasing, event, item, lease, session, study, vote
from rlalign.feedback.votes import give_back, release, stands

Scope = Literal["annotator", "admin", "crowd"]
State = Literal["consent", "guidelines", "task", "explanation", "break", "failed", "withdrawn"]
TRIES = 2
"""Tries of the check."""
_ADJECTIVES = ("amber", "brisk", "calm", "deft", "eager", "fair", "glad", "keen", "lucid", "mild", "neat", "quiet",
               "rapid", "solid", "tidy", "vivid")  # fmt: skip
_NOUNS = ("ash", "birch", "cedar", "elm", "fir", "hazel", "ivy", "larch", "maple", "oak", "pine", "reed", "sage",
          "thyme", "willow", "yew")  # fmt: skip
_DAY_MS = 86_400_000
MOST_LINKS = 500
"""Links that are made at once."""
COOKIE_MS = 60 * _DAY_MS
"""Time for which a cookie is valid."""


@dataclass(frozen=True, slots=True)
class Link:
    """A personal link, which is shown once.

    Attributes:
        pseudonym: of its owner.
        token: the secret of the link: `/j/TOKEN`, for an administrator `/admin/j/TOKEN`.
        scope: annotator, admin, or crowd (a link for many people, each of whom becomes an annotator).
    """

    pseudonym: str
    token: str
    scope: Scope

    @property
    def path(self) -> str:
        """The path of the link."""
        return f"/{'admin/' if self.scope == 'admin' else ''}j/{self.token}"


def digest(secret: str) -> str:
    """Return the digest under which a token or a cookie is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def invite(
    connection: sa.Connection, count: int, days: float | None, scope: Scope = "annotator", actor: str = "command line"
) -> list[Link]:
    """Make new people with personal links.

    Args:
        connection: inside a transaction.
        count: number of people.
        days: the links can be opened for this time; None: always.
        scope: what the links open.
        actor: who invites.
    """
    links = [_new_person(connection, scope, days) for _ in range(count)]
    log_event(connection, actor, "invite", f"{count} {scope}")
    return links


def _new_person(connection: sa.Connection, scope: Scope, days: float | None, **values: Any) -> Link:
    token = secrets.token_urlsafe(24)
    pseudonym = _pseudonym(connection)
    own = {
        "pseudonym": pseudonym,
        "scope": scope,
        "token_hash": digest(token),
        "created": now_ms(),
        "expires": None if days is None else now_ms() + int(days * _DAY_MS),
        "seed": secrets.randbits(31),
        "code": secrets.token_hex(4).upper(),
    }
    insert_returning_id(connection, annotator, **{**own, **values})
    return Link(pseudonym, token, scope)


def _pseudonym(connection: sa.Connection) -> str:
    """Return a name that nobody has."""
    rng = random.SystemRandom()
    for digits in range(3, 12):  # longer numbers when most of the short ones are taken
        for _ in range(20):
            number = rng.randrange(10 ** (digits - 1), 10**digits)
            name = f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}-{number}"
            if connection.execute(sa.select(annotator.c.id).where(annotator.c.pseudonym == name)).first() is None:
                return name
    raise AssertionError("unreachable")


def find_link(connection: sa.Connection, token: str, scopes: tuple[Scope, ...]) -> Any:
    """Return the row of the owner of a link.

    Raises:
        NotFound: the token is unknown, revoked or expired; the answer is the same.
    """
    row = connection.execute(sa.select(annotator).where(annotator.c.token_hash == digest(token))).one_or_none()
    if row is None or row.scope not in scopes or not _is_valid(row):
        raise NotFound("link", "this link is not valid")
    return row


def _is_valid(row: Any) -> bool:
    return row.revoked is None and row.forgotten is None and (row.expires is None or row.expires > now_ms())


def sign_in(
    connection: sa.Connection, token: str, scopes: tuple[Scope, ...], crowd: Mapping[str, str] | None = None
) -> str:
    """Open a personal link and return the value of a new cookie.

    Args:
        connection: inside a transaction.
        token: of the link.
        scopes: what the link may open.
        crowd: parameters of a crowd site. A link for a crowd makes an annotator for each value of them.

    Raises:
        NotFound: as `find_link`.
    """
    row = find_link(connection, token, scopes)
    person = row.id
    if row.scope == "crowd":
        person = _crowd_person(connection, row, crowd or {})
    value = secrets.token_urlsafe(24)
    connection.execute(sa.insert(cookie).values(hash=digest(value), annotator=person, created=now_ms()))
    return value


def _crowd_person(connection: sa.Connection, link: Any, parameters: Mapping[str, str]) -> int:
    """Return the annotator of the parameters of a crowd site; without parameters, a new one."""
    # the site's own id of the person; the other parameters differ from visit to visit
    own = next((v for k, v in sorted(parameters.items()) if k.upper() in ("PROLIFIC_PID", "WORKERID", "PID")), None)
    key = digest(f"{link.id}:{own}") if own else None
    if key is not None:
        known = connection.execute(sa.select(annotator.c.id).where(annotator.c.crowd_key == key)).scalar_one_or_none()
        if known is not None:
            return int(known)
    stored = json.dumps(dict(parameters)) if parameters else None
    made = _new_person(
        connection, "annotator", None, crowd_key=key, crowd_json=stored, crowd_link=link.id, expires=link.expires
    )
    query = sa.select(annotator.c.id).where(annotator.c.pseudonym == made.pseudonym)
    return int(connection.execute(query).scalar_one())


_find_owner = Prepared(
    sa.select(annotator, sa.select(study.c.state).scalar_subquery().label("study_state"))
    .join(cookie, cookie.c.annotator == annotator.c.id)
    .where(cookie.c.hash == sa.bindparam("hash"), cookie.c.created > sa.bindparam("oldest"))
)


def signed_in(connection: sa.Connection, value: str | None, scope: Scope) -> Any:
    """Return the row of the annotator, or administrator, of a cookie, with the `study_state`.

    Raises:
        SignedOut: the cookie is unknown, its owner has another scope, or the link was revoked or has expired.
    """
    if not value:
        raise SignedOut
    row = _find_owner(connection, hash=digest(value), oldest=now_ms() - COOKIE_MS).one_or_none()
    if row is None or row.scope != scope or not _is_valid(row):
        raise SignedOut
    return row


def csrf_token(value: str) -> str:
    """Return the CSRF token of a cookie: a digest that other sites cannot compute."""
    return digest(f"csrf:{value}")[:32]


# ---- steps before the first item ----


def state_of(described: Study, person: Any, consent_version: str, guidelines_hash: str) -> State:
    """Return the step that an annotator is at."""
    if person.withdrawn is not None:
        return "withdrawn"
    if person.consent_version != consent_version:
        return "consent"
    if person.guidelines_hash != guidelines_hash:
        return "guidelines"
    if person.explained is not None:
        return "explanation"
    if described.check and not person.passed and person.tries >= TRIES:
        return "failed"
    if person.since_break >= described.break_items or person.since_break_ms >= described.break_minutes * 60_000:
        return "break"
    return "task"


def accept(connection: sa.Connection, person: Any, part: Literal["consent", "guidelines"], version: str) -> None:
    """Store that an annotator agreed to the consent text, or read the guidelines, of a version."""
    if part == "consent":
        values: dict[str, Any] = {"consent_version": version, "consent_at": now_ms()}
    else:
        values = {"guidelines_hash": version}
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))


def working_ms(connection: sa.Connection, person: Any) -> int:
    """Return the working time of an annotator."""
    worked = sa.select(sa.func.coalesce(sa.func.sum(session.c.active_ms), 0))
    return int(connection.execute(worked.where(session.c.annotator == person.id)).scalar_one())


def resume(connection: sa.Connection, person: Any) -> None:
    """Leave the explanation or the break that is on the screen."""
    if person.explained is not None:
        values: dict[str, Any] = {"explained": None}
    else:
        values = {"since_break": 0, "since_break_ms": 0}
        log_event(connection, person.pseudonym, "break")
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))


def is_right(described: Study, answer: str, row: Any) -> bool:
    """Return True if a vote gives the known answer.

    Args:
        described: the study.
        answer: as in study.toml: of the stored order of the completions.
        row: the vote.
    """
    answer = answer.lower()
    if described.kind == "pair":
        return bool(row.choice == answer)
    if described.kind == "rating":
        return str(json.loads(row.ratings_json or "{}").get(described.scales[0].name)) == answer
    ranking = json.loads(row.ranking_json or "{}")
    best = min(ranking.values(), default=None)
    return best is not None and [k.lower() for k, rank in ranking.items() if rank == best] == [answer]


def completion_code(described: Study, person: Any) -> str | None:
    """Return the code that a crowd site gets from a person who is done; None without codes, or without an item."""
    if not described.completion_code or not person.done or person.code is None:
        return None
    return str(person.code)


def finish_check(connection: sa.Connection, described: Study, person: Any) -> bool | None:
    """Judge a try of the check when all its items are answered.

    After a wrong try the items are open again, until no try is left.

    Returns:
        True if it was passed, False if not, None if it is not complete.
    """
    query = (
        sa.select(vote, item.c.answer)
        .join(item, item.c.id == vote.c.item)
        .join(lease, lease.c.id == vote.c.lease)
        .where(vote.c.annotator == person.id, item.c.kind == "check", lease.c.state == "done", vote.c.kind != "undo")
        .order_by(vote.c.id)
    )
    latest = {row.lease: row for row in connection.execute(query)}
    if person.passed or len(latest) < len(described.check):
        return None
    right = all(is_right(described, row.answer, row) for row in latest.values())
    values: dict[str, Any] = {"tries": annotator.c.tries + 1, "passed": int(right)}
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))
    if not right:
        connection.execute(sa.update(lease).where(lease.c.id.in_(list(latest))).values(state="expired"))
    return right


# ---- leaving ----


def find_person(connection: sa.Connection, pseudonym: str) -> Any:
    """Return the row of a pseudonym.

    Raises:
        UserError: nobody has it.
    """
    row = connection.execute(sa.select(annotator).where(annotator.c.pseudonym == pseudonym)).one_or_none()
    if row is None:
        raise UserError(f"unknown annotator '{pseudonym}'; the administrator's page lists the pseudonyms")
    return row


def revoke(connection: sa.Connection, person: Any, actor: str) -> None:
    """End the access of a person, or of all people of a crowd's link: link and cookies. The votes stay."""
    of_link = sa.select(annotator.c.id).where(annotator.c.crowd_link == person.id)
    for number in [person.id, *connection.execute(of_link).scalars().all()]:
        release(connection, number)
        connection.execute(sa.update(annotator).where(annotator.c.id == number).values(revoked=now_ms()))
        connection.execute(sa.delete(cookie).where(cookie.c.annotator == number))
    log_event(connection, actor, "revoke", person.pseudonym)


def withdraw(connection: sa.Connection, person: Any, *, delete_comments: bool, actor: str) -> int:
    """Mark the votes of a person, which leave reports and exports; others get the items. Return their number.

    Raises:
        Conflict: the person withdrew before.
    """
    if person.withdrawn is not None:
        raise Conflict("withdrawn", "these votes were withdrawn before")
    release(connection, person.id)
    _free_places(connection, person.id)
    query = sa.update(vote).where(vote.c.annotator == person.id, vote.c.withdrawn == 0).values(withdrawn=1)
    count = connection.execute(query).rowcount
    if delete_comments:
        _delete_comments(connection, person.id)
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(withdrawn=now_ms()))
    log_event(connection, actor, "withdraw", f"{person.pseudonym}: {count} rows")
    return count


def forget(connection: sa.Connection, person: Any, actor: str) -> str:
    """Replace the pseudonym of a person, and delete token, cookies, comments, session times and crowd parameters.

    The votes stay, connected with each other by an internal number that is never exported.

    Returns:
        The new pseudonym.
    """
    release(connection, person.id)
    _delete_comments(connection, person.id)
    for table in (cookie, session):
        connection.execute(sa.delete(table).where(table.c.annotator == person.id))
    name = f"forgotten-{secrets.token_hex(4)}"
    values = {
        "pseudonym": name, "token_hash": None, "crowd_key": None, "crowd_json": None, "forgotten": now_ms(),
        "consent_at": None, "language": "", "created": 0, "expires": None, "seed": 0, "code": None,
    }  # fmt: skip
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))
    # events about the person name the pseudonym
    connection.execute(sa.update(event).where(event.c.actor == person.pseudonym).values(actor=name))
    renamed = sa.func.replace(event.c.detail, person.pseudonym, name)
    connection.execute(sa.update(event).where(event.c.detail.contains(person.pseudonym)).values(detail=renamed))
    log_event(connection, actor, "forget", name)
    return name


def erase(connection: sa.Connection, person: Any, actor: str) -> int:
    """Delete the votes of a person for good, with all that `forget` deletes; others get the items. Return their number.

    This is the only deletion of votes.
    """
    release(connection, person.id)
    if person.withdrawn is None:
        _free_places(connection, person.id)
    _delete_comments(connection, person.id)
    connection.execute(sa.insert(erasing).values(annotator=person.id))
    mine = vote.c.annotator == person.id
    # a row that supersedes another one refers to it, so the last rows are deleted first
    ids = connection.execute(sa.select(vote.c.id).where(mine).order_by(vote.c.id.desc())).scalars().all()
    connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(explained=None))
    for vote_id in ids:
        connection.execute(sa.delete(vote).where(vote.c.id == vote_id))
    connection.execute(sa.delete(erasing).where(erasing.c.annotator == person.id))
    connection.execute(sa.delete(lease).where(lease.c.annotator == person.id))
    name = forget(connection, person, actor)
    log_event(connection, actor, "erase", f"{name}: {len(ids)} rows")
    return len(ids)


def _delete_comments(connection: sa.Connection, annotator_id: int) -> None:
    mine = sa.select(vote.c.id).where(vote.c.annotator == annotator_id)
    connection.execute(sa.delete(comment).where(comment.c.vote.in_(mine)))


def _free_places(connection: sa.Connection, annotator_id: int) -> None:
    """Give back the items that a person's votes count for."""
    query = sa.select(vote.c.item).where(
        vote.c.annotator == annotator_id,
        vote.c.withdrawn == 0,
        vote.c.source == "person",
        vote.c.choice != "skip",
        stands(),
    )
    give_back(connection, connection.execute(query).scalars().all())
