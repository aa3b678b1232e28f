"""The state that all routes share: the store, the study with its texts, the limits, and the templates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from rlalign.feedback import people
from rlalign.feedback.errors import Paused, SignedOut
from rlalign.feedback.store import Store
from rlalign.feedback.study import LABELS, Study, from_values
from rlalign.feedback.tables import item
from rlalign.feedback.tables import study as study_table
from rlalign.feedback.votes import last_vote
from rlalign.feedback.web.access import COOKIE, RateLimit, RouteScope, cookie_name
from rlalign.feedback.web.markup import to_html
from rlalign.feedback.web.words import choose_language, words

T = TypeVar("T")
_FOLDER = Path(__file__).parent
_SHORT = 2000
"""Characters of an item that are rendered at once. More of them are rendered in a thread, as others would wait."""

# several people get the same item, and each page has the guidelines
cached_html = lru_cache(maxsize=4096)(to_html)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests.

    Attributes:
        per_second: requests of an annotator per second; 0: no limit.
        burst: requests of an annotator at once.
        sign_in_per_second: opened links per address and second; 0: no limit.
    """

    per_second: float = 10.0
    burst: int = 40
    sign_in_per_second: float = 1.0


class Server:
    """The shared state of a served study.

    Args:
        store: the open store.
        limits: limits of requests.
        secure: the pages are served by HTTPS, and cookies are sent by it alone.
    """

    def __init__(self, store: Store, limits: Limits, *, secure: bool) -> None:
        self.store = store
        self.secure = secure
        row = store.read(lambda c: c.execute(sa.select(study_table)).one())
        self.study: Study = from_values(json.loads(row.config_json))
        self.texts: dict[str, dict[str, str]] = json.loads(row.texts_json)
        self.consent_version = _version(self.texts["consent"])
        self.guidelines_hash = _version(self.texts["guidelines"])
        self.requests = RateLimit(limits.per_second, limits.burst)
        self.sign_ins = RateLimit(limits.sign_in_per_second, 20)
        self.lease_ms = int(self.study.lease_minutes * 60_000)
        loader = jinja2.FileSystemLoader(_FOLDER / "templates")
        self._templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)

    async def write(self, request: Callable[[sa.Connection], T]) -> T:
        """Run a request in a transaction of the store."""
        return await asyncio.wrap_future(self.store.write(request))

    async def read(self, request: Callable[[sa.Connection], T]) -> T:
        """Run a request on a snapshot of the store."""
        return await run_in_threadpool(self.store.read, request)

    # ---- people ----

    def person(self, connection: sa.Connection, request: Request, *, working: bool = False) -> Any:
        """Return the row of the signed-in annotator.

        Args:
            connection: of the store.
            request: with the cookie.
            working: the request needs a study that is not paused.

        Raises:
            SignedOut: there is none.
            Paused: the study is paused.
        """
        row = people.signed_in(connection, request.cookies.get(COOKIE), "annotator")
        if working:
            check_not_paused(row)
        return row

    def visitor(self, connection: sa.Connection, request: Request) -> Any:
        """Return the row of the signed-in annotator; None if nobody is signed in."""
        with suppress(SignedOut):
            return self.person(connection, request)
        return None

    def leave_page(self, connection: sa.Connection, request: Request) -> Any:
        """Leave the explanation or the break that is on the screen, if there is one, and return the annotator's row."""
        person = self.person(connection, request)
        if self.state(person) in ("explanation", "break"):
            people.resume(connection, person)
        return person

    def state(self, person: Any) -> people.State:
        """Return the step of an annotator."""
        return people.state_of(self.study, person, self.consent_version, self.guidelines_hash)

    # ---- pages ----

    def language(self, request: Request, person: Any = None) -> str:
        """Return the language of the pages: chosen by the annotator, or that of the browser."""
        chosen = "" if person is None else person.language
        if chosen in self.study.languages:
            return str(chosen)
        return choose_language(request.headers.get("accept-language"), self.study.languages)

    def page(
        self, request: Request, template: str, *, scope: RouteScope = "annotator", person: Any = None,
        status: int = 200, **context: Any,
    ) -> HTMLResponse:  # fmt: skip
        """Render a template.

        Args:
            request: of the page.
            template: name of the template.
            scope: whose cookie the CSRF token belongs to.
            person: the annotator, for the language.
            status: of the answer.
            context: values of the template.
        """
        language = self.language(request, person)
        cookie = request.cookies.get(cookie_name(scope), "")
        common = {
            "w": words(language), "lang": language, "languages": list(self.study.languages), "study": self.study.name,
            "csrf": people.csrf_token(cookie) if cookie else "", "retry": "",
            "withdraw": False,
        }  # fmt: skip
        return HTMLResponse(self._templates.get_template(template).render(**common | context), status)

    def text(self, part: str, language: str) -> str:
        """Return the consent text or the guidelines as HTML."""
        return cached_html(self.texts[part][language], top_heading=2)

    async def rendered_task(self, content: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Return `task` of an item; long texts are rendered in a thread."""
        length = sum(len(m["content"]) for m in content["messages"])
        length += sum(len(c["text"]) for c in content["completions"])
        if length <= _SHORT:
            return self.task(content, language)
        return await run_in_threadpool(self.task, content, language)

    def task(self, content: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Return what the task page shows of an item (see `rlalign.feedback.items.content_of`).

        Args:
            content: of the item.
            language: of the scales.
        """
        kind = self.study.kind
        return {
            "lease": content["lease"],
            "kind": kind,
            "practice": content["kind"] == "practice",
            "check": content["kind"] == "check",
            "language": content["language"],
            "prompt": [
                {"role": m["role"], "text": m["content"], "html": cached_html(m["content"])}
                for m in content["messages"]
            ],
            "completions": [
                {"label": LABELS[i], "text": c["text"], "html": cached_html(c["text"]), "cut": c["cut"]}
                for i, c in enumerate(content["completions"])
            ],
            "scales": self.scales(language),
        }

    def scales(self, language: str) -> list[dict[str, Any]]:
        """Return the scales of ratings with texts in a language; none for another kind of study."""
        if self.study.kind != "rating":
            return []
        return [
            {
                "name": scale.name,
                "label": scale.text("label", language) or scale.name,
                "low": scale.text("low", language),
                "high": scale.text("high", language),
                "points": list(range(1, scale.points + 1)),
            }
            for scale in self.study.scales
        ]

    def undoable(self, connection: sa.Connection, person: Any) -> int | None:
        """Return the vote that an annotator can undo."""
        row = last_vote(connection, person.id)
        if row is None:
            return None
        kind = connection.execute(sa.select(item.c.kind).where(item.c.id == row.item)).scalar_one()
        return None if kind in ("practice", "check") else int(row.id)


def check_not_paused(person: Any) -> None:
    """Raise Paused if the administrator paused the study of a signed-in annotator."""
    if person.study_state == "paused":
        raise Paused


def _version(texts: Mapping[str, str]) -> str:
    return people.digest(json.dumps(texts, sort_keys=True))[:16]
