"""The administrator's pages: progress, figures per annotator, links, pause, exports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from rlalign.feedback import people
from rlalign.feedback.errors import Invalid, NotFound
from rlalign.feedback.exports import csv_lines, json_lines, log_look
from rlalign.feedback.progress import annotators, progress, votes
from rlalign.feedback.store import log_event
from rlalign.feedback.tables import annotator, study
from rlalign.feedback.web.access import ADMIN_COOKIE
from rlalign.feedback.web.pages import address_of, with_cookie
from rlalign.feedback.web.server import Server

_MOST_DAYS = 3650


def router(server: Server) -> APIRouter:
    """Return the routes of the administrator.

    Args:
        server: the shared state.
    """
    routes = APIRouter(prefix="/admin", include_in_schema=False)

    @routes.get("/j/{token}")
    async def join(request: Request, token: str) -> HTMLResponse:
        server.sign_ins.check(address_of(request))
        await server.read(lambda c: people.find_link(c, token, ("admin",)))
        return server.page(request, "admin_join.html", scope="admin", token=token)

    @routes.post("/j/{token}")
    async def sign_in(request: Request, token: str) -> Response:
        server.sign_ins.check(address_of(request))
        value = await server.write(lambda c: people.sign_in(c, token, ("admin",)))
        return with_cookie(RedirectResponse("/admin", 303), ADMIN_COOKIE, value, secure=server.secure)

    @routes.get("")
    async def overview(request: Request) -> HTMLResponse:
        return await _overview(server, request, [])

    @routes.post("/pause")
    async def pause(request: Request) -> Response:
        return await _set_state(server, request, "paused")

    @routes.post("/resume")
    async def resume(request: Request) -> Response:
        return await _set_state(server, request, "open")

    @routes.post("/invite")
    async def invite(request: Request) -> HTMLResponse:
        form = await request.form()
        count, days = str(form.get("count", "")), str(form.get("days", ""))
        if not _is_number(count, people.MOST_LINKS):
            raise Invalid("count", f"expected 1 to {people.MOST_LINKS} people")
        if days and not _is_number(days, _MOST_DAYS):
            raise Invalid("days", f"expected 1 to {_MOST_DAYS} days, or nothing")

        def change(c: sa.Connection) -> list[people.Link]:
            person = _admin(c, request)
            return people.invite(c, int(count), int(days) if days else None, actor=person.pseudonym)

        links = await server.write(change)
        base = str(request.base_url).rstrip("/")
        # shown in this answer alone: the store holds the digests of the tokens
        return await _overview(server, request, [{"pseudonym": x.pseudonym, "url": base + x.path} for x in links])

    @routes.post("/revoke")
    async def revoke(request: Request) -> Response:
        form = await request.form()
        number = str(form.get("annotator", ""))

        def change(c: sa.Connection) -> None:
            actor = _admin(c, request)
            digits = number.isascii() and number.isdecimal() and len(number) < 16
            row = c.execute(sa.select(annotator).where(annotator.c.id == int(number))).one_or_none() if digits else None
            if row is None or row.scope not in ("annotator", "crowd"):
                raise NotFound("annotator", "no such annotator")
            people.revoke(c, row, actor.pseudonym)

        await server.write(change)
        return RedirectResponse("/admin", 303)

    @routes.get("/api/progress")
    async def get_progress(request: Request) -> dict[str, Any]:
        def query(c: sa.Connection) -> dict[str, Any]:
            _admin(c, request)
            return progress(c)

        return await server.read(query)

    @routes.get("/api/annotators")
    async def get_annotators(request: Request) -> list[dict[str, Any]]:
        def query(c: sa.Connection) -> list[dict[str, Any]]:
            _admin(c, request)
            return annotators(c, server.study)

        return await server.read(query)

    @routes.get("/api/export.jsonl")
    async def export_jsonl(request: Request, comments: bool = True) -> StreamingResponse:
        await _log_look(server, request, "export")
        return _download(_lines(server, comments), "application/jsonl", "votes.jsonl")

    @routes.get("/api/export.csv")
    async def export_csv(request: Request, comments: bool = True) -> StreamingResponse:
        await _log_look(server, request, "export")
        return _download(_csv(server, comments), "text/csv; charset=utf-8", "votes.csv")

    return routes


def _admin(connection: sa.Connection, request: Request) -> Any:
    """Return the row of the signed-in administrator."""
    return people.signed_in(connection, request.cookies.get(ADMIN_COOKIE), "admin")


async def _overview(server: Server, request: Request, links: list[dict[str, str]]) -> HTMLResponse:
    await _log_look(server, request, "look")

    def query(c: sa.Connection) -> dict[str, Any]:
        return {"progress": progress(c), "annotators": annotators(c, server.study)}

    values = await server.read(query)
    for row in values["annotators"]:
        row |= {name: _date(row[name]) for name in ("created", "expires")}
    counts = values["progress"]
    state = counts.get("state", "paused" if counts["paused"] else "open")
    shown = {"state": state, "looks": counts["looks"], "links": links}
    return server.page(request, "admin.html", scope="admin", **values, **shown)


def _is_number(text: str, most: int) -> bool:
    """Return True for a decimal number from 1 to `most`, of at most four digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= most


def _date(at: int | None) -> str:
    """Return a time in milliseconds as a date and time in UTC; empty for none."""
    return "" if not at else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


async def _log_look(server: Server, request: Request, what: Any) -> None:
    """Count that somebody looked at results: a stop that depends on them changes what an interval means."""

    def change(c: sa.Connection) -> None:
        log_look(c, _admin(c, request).pseudonym, what)

    await server.write(change)


async def _set_state(server: Server, request: Request, state: str) -> Response:
    def change(c: sa.Connection) -> None:
        person = _admin(c, request)
        # a study that its stop rule ended stays ended
        changeable = study.c.state.not_in(("complete", state))
        if c.execute(sa.update(study).where(changeable).values(state=state)).rowcount > 0:
            log_event(c, person.pseudonym, "pause" if state == "paused" else "resume")

    await server.write(change)
    return RedirectResponse("/admin", 303)


def _download(content: Iterator[str], media_type: str, name: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=media_type, headers=headers)


def _lines(server: Server, comments: bool) -> Iterator[str]:
    with server.store.snapshot() as connection:
        yield from json_lines(votes(connection, comments=comments))


def _csv(server: Server, comments: bool) -> Iterator[str]:
    with server.store.snapshot() as connection:
        yield from csv_lines(votes(connection, comments=comments))
