"""Access to routes: scopes, cookies, CSRF tokens, origins, sizes, rates, and headers."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import Request

from rlalign.feedback.errors import Forbidden, Refused
from rlalign.feedback.people import csrf_token

RouteScope = Literal["public", "annotator", "admin"]
COOKIE = "rlalign_feedback"
ADMIN_COOKIE = "rlalign_feedback_admin"

SCOPES: dict[tuple[str, str], RouteScope] = {
    ("GET", "/health"): "public",
    ("GET", "/ready"): "public",
    ("GET", "/favicon.ico"): "public",
    ("GET", "/static/{name}"): "public",
    ("GET", "/j/{token}"): "public",
    ("POST", "/j/{token}"): "public",
    ("GET", "/"): "annotator",
    ("POST", "/consent"): "annotator",
    ("POST", "/guidelines"): "annotator",
    ("POST", "/vote"): "annotator",
    ("POST", "/undo"): "annotator",
    ("POST", "/continue"): "annotator",
    ("POST", "/language"): "annotator",
    ("GET", "/withdraw"): "annotator",
    ("POST", "/withdraw"): "annotator",
    ("GET", "/api/me"): "annotator",
    ("POST", "/api/consent"): "annotator",
    ("POST", "/api/guidelines"): "annotator",
    ("POST", "/api/continue"): "annotator",
    ("POST", "/api/next"): "annotator",
    ("POST", "/api/vote"): "annotator",
    ("POST", "/api/undo"): "annotator",
    ("POST", "/api/heartbeat"): "annotator",
    ("POST", "/api/withdraw"): "annotator",
    ("GET", "/admin/j/{token}"): "public",
    ("POST", "/admin/j/{token}"): "public",
    ("GET", "/admin"): "admin",
    ("POST", "/admin/pause"): "admin",
    ("POST", "/admin/resume"): "admin",
    ("POST", "/admin/invite"): "admin",
    ("POST", "/admin/revoke"): "admin",
    ("GET", "/admin/api/progress"): "admin",
    ("GET", "/admin/api/annotators"): "admin",
    ("GET", "/admin/api/export.jsonl"): "admin",
    ("GET", "/admin/api/export.csv"): "admin",
}
"""The scope of each route, by method and path. A route that is not here is refused; a test compares both."""

LARGEST_BODY = 64 * 1024
_SAFE = ("GET", "HEAD")
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # not no-referrer, with which browsers send the origin "null" with forms
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def scope_of(request: Request) -> RouteScope:
    """Return the scope of the route of a request.

    Raises:
        Forbidden: the route is not in the table.
    """
    route = request.scope.get("route")
    key = ("GET" if request.method == "HEAD" else request.method, getattr(route, "path", ""))
    if key not in SCOPES:
        raise Forbidden("no scope", "this route is not open to anybody")
    return SCOPES[key]


def cookie_name(scope: RouteScope) -> str:
    """Return the name of the cookie of a scope."""
    return ADMIN_COOKIE if scope == "admin" else COOKIE


def check_sender(request: Request, scope: RouteScope, form_token: str | None) -> None:
    """Refuse a changing request of another site.

    Browsers send the origin of a page with each POST. The CSRF token is sent in the header X-CSRF or in a form.

    Raises:
        Forbidden: the origin or the token is wrong.
    """
    if request.method in _SAFE:
        return
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("origin", "this request came from another site")
    if scope == "public":  # nobody is signed in yet
        return
    value = request.cookies.get(cookie_name(scope), "")
    sent = request.headers.get("x-csrf") or form_token
    if sent != csrf_token(value):
        raise Forbidden("csrf", "this page is out of date; load it again")


class RateLimit:
    """A token bucket for each key.

    Args:
        per_second: requests per second; 0: no limit.
        burst: requests at once.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self.per_second, self.burst = per_second, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, key: str) -> None:
        """Count a request.

        Raises:
            TooMany: the bucket of the key is empty.
        """
        if not self.per_second:
            return
        now = time.monotonic()
        if len(self._buckets) > 10_000:  # full buckets are those of nobody who is here now
            full = self.burst / self.per_second
            self._buckets = {k: v for k, v in self._buckets.items() if now - v[1] < full}
        tokens, last = self._buckets.get(key, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - last) * self.per_second)
        if tokens < 1:
            raise TooMany
        self._buckets[key] = (tokens - 1, now)


class TooMany(Refused):
    """Too many requests."""

    status = 429

    def __init__(self) -> None:
        super().__init__("too many", "too many requests; wait a moment")


class Guard:
    """Middleware: limits the size of bodies and adds the security headers.

    Args:
        app: the application inside.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            await _too_large(send)
            return
        size = 0
        sent = exceeded = False

        async def limited() -> MutableMapping[str, Any]:
            nonlocal size, exceeded
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                exceeded = True
                raise _TooLarge
            return message

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = True
                own = list(message.get("headers", []))
                if not scope["path"].startswith("/static/"):
                    own.append((b"cache-control", b"no-store"))
                # a parser may have answered the interrupted body
                status = 413 if exceeded else message["status"]
                message = {**message, "status": status, "headers": [*own, *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, limited, with_headers)
        except _TooLarge:
            if not sent:
                await _too_large(send)


class _TooLarge(Exception):
    """A body without a length that is too large."""


async def _too_large(send: Send) -> None:
    body = json.dumps(
        {"error": {"code": "too large", "message": f"at most {LARGEST_BODY} bytes", "field": ""}}
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
