"""The application that serves a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from rlalign.feedback.errors import NotFound, Refused
from rlalign.feedback.store import Store
from rlalign.feedback.web import admin, api, pages
from rlalign.feedback.web.access import Guard, check_sender, cookie_name, scope_of
from rlalign.feedback.web.server import Limits, Server
from rlalign.feedback.web.words import words

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def make_app(store: Store, limits: Limits | None = None, *, secure: bool = False) -> Any:
    """Return the application of a study.

    Args:
        store: the open store; closing it is the caller's.
        limits: limits of requests; None: the defaults.
        secure: the pages are served by HTTPS.

    Returns:
        An ASGI application, whose attribute `fastapi` is the FastAPI application inside.
    """
    server = Server(store, limits or Limits(), secure=secure)

    async def admit(request: Request) -> None:
        """Check scope, rate, origin and CSRF token of each request before its route."""
        scope = scope_of(request)
        value = request.cookies.get(cookie_name(scope), "")
        if value:
            server.requests.check(value)
        token = None
        if request.headers.get("content-type", "").startswith(("application/x-www-form", "multipart/form-data")):
            form = await request.form(max_files=0, max_fields=50)
            token = str(form.get("csrf", ""))
        check_sender(request, scope, token)

    app = FastAPI(
        title="rlalign feedback", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(admit)]
    )
    app.include_router(api.router(server))  # first, as routes are compared in turn
    app.include_router(pages.router(server))
    app.include_router(admin.router(server))

    @app.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/ready", methods=["GET", "HEAD"], include_in_schema=False)
    async def ready() -> dict[str, str]:
        await server.write(lambda _: None)
        return {"status": "ok"}

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return FileResponse(_STATIC / "favicon.svg", media_type=_TYPES[".svg"])

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        path = _STATIC / name
        # the names of the folder: no other path is opened
        if name not in {p.name for p in _STATIC.iterdir()}:
            raise NotFound("file", "no such file")
        headers = {"cache-control": "max-age=300"}
        return FileResponse(path, media_type=_TYPES.get(path.suffix, "text/plain"), headers=headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        if _is_api(request):
            return _json(error.status, error.code, error.message, error.field)
        # the field tells wrong values of a form apart, and the code tells unknown things apart
        detail = {404: error.code, 422: error.field}.get(error.status, "")
        return await _message(server, request, error.status, error.message, detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first.get("loc", ())[1:])
        return _json(422, "invalid", str(first.get("msg", "")), field)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if _is_api(request) or error.status_code == 405:
            return _json(error.status_code, "http", str(error.detail), "")
        return await _message(server, request, error.status_code, str(error.detail))

    guarded = Guard(app)
    guarded.fastapi = app  # type: ignore[attr-defined]  # for the OpenAPI document and the tests
    return guarded


async def _message(server: Server, request: Request, status: int, default: str, detail: str = "") -> Response:
    """Return the page of a refusal: to an administrator in the texts of that page, else in those for annotators.

    Args:
        server: the shared state.
        request: the refused one.
        status: of the answer.
        default: the text if there is none for the status.
        detail: field or code that has its own text for the administrator.
    """
    person = None if _is_admin(request) else await server.read(lambda c: server.visitor(c, request))
    w = words(server.language(request, person))
    text = w.get(f"error_{status}", default)
    title = w.get(f"error_title_{status}", w["error_title"])
    retry = "/" if status in (400, 403, 409, 422, 423, 429) else ""
    if not _is_admin(request):
        return server.page(request, "message.html", person=person, status=status, title=title, text=text, retry=retry)
    own = w.get(f"admin_error_{detail}") if detail else None
    text = own or w.get(f"admin_error_{status}", text)
    retry = "/admin" if retry or own else ""
    # the switch of languages is for annotators
    return server.page(
        request, "message.html", scope="admin", status=status, title=title, text=text, retry=retry, languages=[]
    )


def _is_admin(request: Request) -> bool:
    return request.url.path == "/admin" or request.url.path.startswith("/admin/")


def _is_api(request: Request) -> bool:
    return request.url.path.startswith(("/api/", "/admin/api/"))


def _json(status: int, code: str, message: str, field: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "field": field}}, status)
