"""The annotators' JSON interface. Each answer is sent after its change is on the disk."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request

from rlalign.feedback import people
from rlalign.feedback.errors import Conflict, Forbidden
from rlalign.feedback.items import content_of, heartbeat, left_for, next_item
from rlalign.feedback.tables import annotator, item, lease
from rlalign.feedback.votes import Ballot, record, undo
from rlalign.feedback.web import bodies
from rlalign.feedback.web.server import Server

_STEPS = {
    "consent": "agree to the consent text first",
    "guidelines": "read the guidelines first",
    "explanation": "read the explanation first",
    "break": "a break is suggested first",
    "failed": "the check was not passed",
    "withdrawn": "these votes were withdrawn",
}


def router(server: Server) -> APIRouter:
    """Return the routes below /api.

    Args:
        server: the shared state.
    """
    routes = APIRouter(prefix="/api", tags=["annotators"], responses={401: {}, 403: {}, 404: {}, 409: {}, 429: {}})

    @routes.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        """Return the step of the annotator, the progress and the working time."""

        def query(c: sa.Connection) -> dict[str, Any]:
            person = server.person(c, request)
            return {
                "state": server.state(person),
                "consent_version": server.consent_version,
                "guidelines_version": server.guidelines_hash,
                "progress": {"done": person.done, "left_for_you": left_for(c, server.study, person)},
                "active_s": people.working_ms(c, person) // 1000,
                "language": server.language(request, person),
                "kind": server.study.kind,
            }

        return await server.read(query)

    @routes.post("/consent")
    async def consent(request: Request, body: bodies.Consent) -> dict[str, str]:
        """Agree to the consent text."""

        def change(c: sa.Connection) -> dict[str, str]:
            person = server.person(c, request)
            if body.version != server.consent_version:
                raise Conflict("version", "the consent text was changed; load the page again", "version")
            if not body.agreed:
                raise Forbidden("consent", "without consent there is nothing to do; thank you", "agreed")
            people.accept(c, person, "consent", body.version)
            return {"state": server.state(_again(c, person))}

        return await server.write(change)

    @routes.post("/guidelines")
    async def guidelines(request: Request, body: bodies.Guidelines) -> dict[str, str]:
        """Confirm that the guidelines were read."""

        def change(c: sa.Connection) -> dict[str, str]:
            person = server.person(c, request)
            if body.version != server.guidelines_hash:
                raise Conflict("version", "the guidelines were changed; load the page again", "version")
            people.accept(c, person, "guidelines", body.version)
            return {"state": server.state(_again(c, person))}

        return await server.write(change)

    @routes.post("/continue")
    async def go_on(request: Request) -> dict[str, str]:
        """Leave an explanation or a break."""

        def change(c: sa.Connection) -> dict[str, str]:
            return {"state": server.state(_again(c, server.leave_page(c, request)))}

        return await server.write(change)

    @routes.post("/next")
    async def get_next(request: Request) -> dict[str, Any] | None:
        """Return the next item, or the one that is open; null if none is left."""

        def change(c: sa.Connection) -> tuple[dict[str, Any], str] | None:
            person = server.person(c, request, working=True)
            require_task(server, person)
            row = next_item(c, server.study, person)
            return None if row is None else (content_of(c, row), server.language(request, person))

        given = await server.write(change)
        if given is None:
            return None
        content, language = given
        return {**await server.rendered_task(content, language), "expires": content["expires"]}

    @routes.post("/vote")
    async def post_vote(request: Request, body: bodies.Vote) -> dict[str, Any]:
        """Answer an item. The same body again returns the same vote."""
        saved = await server.write(lambda c: vote_on(server, c, request, body.lease, body.ballot()))
        return {"saved": True, "vote": saved}

    @routes.post("/undo")
    async def post_undo(request: Request, body: bodies.Undo) -> dict[str, int]:
        """Undo the last vote, within ten minutes. Its item is open again."""

        def change(c: sa.Connection) -> dict[str, int]:
            person = server.person(c, request, working=True)
            return {"lease": undo(c, person, body.vote, server.lease_ms)}

        return await server.write(change)

    @routes.post("/heartbeat")
    async def post_heartbeat(request: Request, body: bodies.Heartbeat) -> dict[str, int]:
        """Keep an item that is on the screen."""

        def change(c: sa.Connection) -> dict[str, int]:
            person = server.person(c, request)
            return {"expires": heartbeat(c, person, body.lease, body.visible_ms, server.lease_ms)}

        return await server.write(change)

    @routes.post("/withdraw")
    async def post_withdraw(request: Request, body: bodies.Withdraw) -> dict[str, Any]:
        """Withdraw all votes: they leave reports and exports."""

        def change(c: sa.Connection) -> dict[str, Any]:
            person = server.person(c, request)
            people.withdraw(c, person, delete_comments=body.delete_comments, actor=person.pseudonym)
            return {"state": "withdrawn"}

        return await server.write(change)

    return routes


def require_task(server: Server, person: Any) -> None:
    """Refuse work before the steps that precede it."""
    state = server.state(person)
    if state != "task":
        raise Forbidden(state, _STEPS[state])


def vote_on(server: Server, connection: sa.Connection, request: Request, lease_id: int, ballot: Ballot) -> int:
    """Store an answer and judge the check if it was its last item; return the id of the vote.

    An item that was given before a pause can be answered: the work is done, and a form without script would lose it.
    """
    person = server.person(connection, request)
    vote_id = record(connection, server.study, person, lease_id, ballot, server.guidelines_hash)
    if server.study.check and not person.passed:
        people.finish_check(connection, server.study, _again(connection, person))
    elif not person.passed and _practiced(connection, server, person):
        values = {"passed": 1}
        connection.execute(sa.update(annotator).where(annotator.c.id == person.id).values(**values))
    return vote_id


def _practiced(connection: sa.Connection, server: Server, person: Any) -> bool:
    """Return True if all practice items are answered, so that `next_item` need not look for them again."""
    answered = (
        sa.select(sa.func.count())
        .select_from(lease)
        .join(item, item.c.id == lease.c.item)
        .where(lease.c.annotator == person.id, lease.c.state == "done", item.c.kind == "practice")
    )
    return int(connection.execute(answered).scalar_one()) >= len(server.study.practice)


def _again(connection: sa.Connection, person: Any) -> Any:
    """Return the row of an annotator after a change."""
    return connection.execute(sa.select(annotator).where(annotator.c.id == person.id)).one()
