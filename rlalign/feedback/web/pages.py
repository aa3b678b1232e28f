"""The annotators' pages: forms that work without script."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from rlalign.feedback import people
from rlalign.feedback.errors import Conflict, Invalid
from rlalign.feedback.items import content_of, left_for, next_item
from rlalign.feedback.study import LABELS
from rlalign.feedback.tables import annotator, comment, item, vote
from rlalign.feedback.votes import COMMENT_LIMIT, Ballot, undo
from rlalign.feedback.web.access import COOKIE
from rlalign.feedback.web.api import vote_on
from rlalign.feedback.web.server import Server, cached_html, check_not_paused
from rlalign.feedback.web.words import words

_HEARTBEAT_S = 60
_ARM_MS = 800
"""Keys do nothing in the first moment of an item: a press may still be meant for the one before."""
_CROWD_PARAMETERS = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID", "workerId", "assignmentId", "hitId", "PID")


def router(server: Server) -> APIRouter:
    """Return the routes of the annotators' pages.

    Args:
        server: the shared state.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/j/{token}")
    async def join(request: Request, token: str) -> HTMLResponse:
        """Show a button. A program that only follows the link, such as a mail scanner, signs nobody in."""
        server.sign_ins.check(address_of(request))
        await server.read(lambda c: people.find_link(c, token, ("annotator", "crowd")))
        crowd = {k: request.query_params[k][:128] for k in _CROWD_PARAMETERS if k in request.query_params}
        return server.page(request, "join.html", token=token, crowd=crowd)

    @routes.post("/j/{token}")
    async def sign_in(request: Request, token: str) -> Response:
        """Sign in. A cookie that a redirect from another site sets would be missing on the next page."""
        server.sign_ins.check(address_of(request))
        form = await request.form()
        crowd = {k: str(form[k])[:128] for k in _CROWD_PARAMETERS if k in form}
        value = await server.write(lambda c: people.sign_in(c, token, ("annotator", "crowd"), crowd))
        return with_cookie(RedirectResponse("/", 303), COOKIE, value, secure=server.secure)

    @routes.get("/")
    async def home(request: Request) -> Response:
        """Show the page of the annotator's step."""
        return await _home(server, request)

    @routes.post("/consent")
    async def consent(request: Request) -> Response:
        form = await request.form()

        def change(c: sa.Connection) -> None:
            person = server.person(c, request)
            if form.get("version") != server.consent_version or form.get("agreed") != "1":
                raise Conflict("version", "the consent text was changed; load the page again")
            people.accept(c, person, "consent", server.consent_version)

        return await _then_home(server, change)

    @routes.post("/guidelines")
    async def guidelines(request: Request) -> Response:
        def change(c: sa.Connection) -> None:
            people.accept(c, server.person(c, request), "guidelines", server.guidelines_hash)

        return await _then_home(server, change)

    @routes.post("/vote")
    async def post_vote(request: Request) -> Response:
        form = await request.form()
        fields = {k: str(v) for k, v in form.items()}
        ballot = _ballot(fields, server)
        number = _number(fields, "lease")
        return await _then_home(server, lambda c: vote_on(server, c, request, number, ballot))

    @routes.post("/undo")
    async def post_undo(request: Request) -> Response:
        form = await request.form()
        number = _number({k: str(v) for k, v in form.items()}, "vote")

        def change(c: sa.Connection) -> None:
            undo(c, server.person(c, request, working=True), number, server.lease_ms)

        return await _then_home(server, change)

    @routes.post("/continue")
    async def go_on(request: Request) -> Response:
        return await _then_home(server, lambda c: server.leave_page(c, request))

    @routes.post("/language")
    async def language(request: Request) -> Response:
        form = await request.form()
        chosen = str(form.get("language", ""))
        if chosen not in server.study.languages:
            raise Invalid("language", f"expected one of {', '.join(server.study.languages)}")

        def change(c: sa.Connection) -> None:
            person = server.person(c, request)
            c.execute(sa.update(annotator).where(annotator.c.id == person.id).values(language=chosen))

        return await _then_home(server, change)

    @routes.get("/withdraw")
    async def withdraw_page(request: Request) -> HTMLResponse:
        person = await server.read(lambda c: server.person(c, request))
        return server.page(request, "withdraw.html", person=person)

    @routes.post("/withdraw")
    async def withdraw(request: Request) -> Response:
        form = await request.form()

        def change(c: sa.Connection) -> None:
            person = server.person(c, request)
            if form.get("confirm") != "1":
                raise Invalid("confirm", "expected a confirmation")
            comments = form.get("delete_comments") is not None
            people.withdraw(c, person, delete_comments=comments, actor=person.pseudonym)

        return await _then_home(server, change)

    return routes


async def _then_home(server: Server, change: Any) -> Response:
    """Carry out a change and send the browser to the page of the next step."""
    await server.write(change)
    return RedirectResponse("/", 303)


async def _home(server: Server, request: Request) -> Response:
    def change(c: sa.Connection) -> dict[str, Any]:
        person = server.person(c, request)
        state = server.state(person)
        values: dict[str, Any] = {"person": person, "state": state}
        if state == "task":
            check_not_paused(person)
            row = next_item(c, server.study, person)
            values["content"] = None if row is None else content_of(c, row)
            values["left"] = left_for(c, server.study, person)
            values["undo"] = server.undoable(c, person)
            values["before"] = _undone_answer(c, row.id) if row else None
        elif state == "explanation":
            values["explained"] = _explanation(c, server, person)
        elif state == "break":
            values["undo"] = None if person.study_state == "paused" else server.undoable(c, person)
        if state in ("withdrawn", "failed") or (state == "task" and values["content"] is None):
            values["active"] = people.working_ms(c, person)
        return values

    values = await server.write(change)
    person, state = values["person"], values["state"]
    language = server.language(request, person)
    guidelines = server.text("guidelines", language)
    if state == "consent":
        text = server.text("consent", language)
        return server.page(request, "consent.html", person=person, consent_html=text, version=server.consent_version)
    if state == "guidelines":
        return server.page(
            request, "guidelines.html", person=person, guidelines_html=guidelines, scales=server.scales(language)
        )
    if state == "explanation":
        return server.page(request, "practice.html", person=person, **values["explained"])
    if state == "break":
        time = _duration(person.since_break_ms, language)
        return server.page(
            request, "break.html", person=person, time=time, items=person.since_break, undo=values["undo"]
        )
    if state == "task" and values["content"] is not None:
        task = await server.rendered_task(values["content"], language)
        return server.page(
            request, "task.html", person=person, task=task, undo=values["undo"], before=values["before"],
            again=task["check"] and person.tries > 0 and not person.passed,
            progress={"done": person.done, "left": values["left"]}, guidelines_html=guidelines,
            comment_limit=COMMENT_LIMIT, heartbeat_s=_HEARTBEAT_S, arm_ms=_ARM_MS,
        )  # fmt: skip
    code = people.completion_code(server.study, person) if state == "task" else None
    if state == "failed":
        w = words(language)
        return server.page(
            request, "message.html", person=person, title=w["failed_title"], text=w["failed_text"], withdraw=True
        )
    return server.page(
        request, "done.html", person=person, code=code, items=person.done,
        time=_duration(values["active"], language), withdrawn=state == "withdrawn", undo=values.get("undo"),
    )  # fmt: skip


def _explanation(connection: sa.Connection, server: Server, person: Any) -> dict[str, Any]:
    """Return what the page after a practice item shows."""
    query = sa.select(vote, item.c.answer, item.c.explanation).join(item, item.c.id == vote.c.item)
    row = connection.execute(query.where(vote.c.id == person.explained)).one()
    return {
        "correct": people.is_right(server.study, row.answer, row),
        "expected": row.answer.upper() if row.answer.upper() in LABELS else row.answer,
        "explanation_html": cached_html(row.explanation or ""),
    }


def _undone_answer(connection: sa.Connection, lease_id: int) -> dict[str, Any]:
    """Return the answer that the page of an undone vote shows: choice, comment, ratings, ranking; else empty ones."""
    query = sa.select(vote.c.kind, vote.c.supersedes).where(vote.c.lease == lease_id).order_by(vote.c.id.desc())
    last = connection.execute(query.limit(1)).one_or_none()
    if last is None or last.kind != "undo":
        return {"choice": "", "comment": "", "ratings": {}, "ranking": {}}
    undone = sa.select(vote.c.choice, vote.c.ratings_json, vote.c.ranking_json, comment.c.text).outerjoin(
        comment, comment.c.vote == vote.c.id
    )
    row = connection.execute(undone.where(vote.c.id == last.supersedes)).one()
    return {
        "choice": row.choice,
        "comment": row.text or "",
        "ratings": json.loads(row.ratings_json or "{}"),
        "ranking": json.loads(row.ranking_json or "{}"),
    }


def _duration(milliseconds: int, language: str) -> str:
    """Return a time in minutes and seconds."""
    minutes, seconds = divmod(int(milliseconds) // 1000, 60)
    return words(language)["duration"].format(minutes=minutes, seconds=seconds)


def _ballot(fields: dict[str, str], server: Server) -> Ballot:
    """Return the answer of a form. Without script the measured times are missing."""
    ratings: dict[str, int] = {}
    ranking: dict[str, int] = {}
    if fields.get("choice") != "skip":
        for name in fields:
            if name.startswith("rating-"):
                ratings[name.removeprefix("rating-")] = _number(fields, name)
            elif name.startswith("rank-"):
                ranking[name.removeprefix("rank-").upper()] = _number(fields, name)
    active = fields.get("active_ms", "")
    seen = fields.get("seen", "")
    return Ballot(
        fields.get("choice", ""),
        ratings,
        ranking,
        # browsers send line breaks of a form as CR LF
        fields.get("comment", "").replace("\r\n", "\n"),
        int(active) if active.isdecimal() and len(active) < 13 else None,
        {"0": False, "1": True}.get(seen),
        fields.get("unfolded") == "1",
    )


def _number(fields: dict[str, str], name: str) -> int:
    value = fields.get(name, "")
    if not (value.isdecimal() and value.isascii() and len(value) < 16):
        raise Invalid(name, "expected a number")
    return int(value)


def address_of(request: Request) -> str:
    """Return the address of a client."""
    return request.client.host if request.client else ""


def with_cookie(response: Response, name: str, value: str, *, secure: bool) -> Response:
    """Add a cookie that scripts cannot read and that other sites do not send."""
    response.set_cookie(name, value, max_age=people.COOKIE_MS // 1000, httponly=True, samesite="strict", secure=secure)
    return response
