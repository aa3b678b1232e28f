"""The server process of a study: uvicorn with an access log that masks tokens."""

from __future__ import annotations

import fcntl
import gc
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn

from rlalign.errors import FaultError, UserError
from rlalign.escaping.terminal import in_one_line, print_text
from rlalign.feedback.enrollment import enroll_next
from rlalign.feedback.people import Link, invite
from rlalign.feedback.progress import progress
from rlalign.feedback.stopping import complete, is_complete
from rlalign.feedback.store import Store, now_ms
from rlalign.feedback.tables import annotator
from rlalign.feedback.votes import expire
from rlalign.feedback.web.app import make_app
from rlalign.feedback.web.server import Limits

_TOKEN = re.compile(r"(/j/)[^/?\s]+")
_LOGGING: dict[str, Any] = {"log_config": None, "log_level": "warning"}
"""Settings of uvicorn. Its own configuration of `logging` closes the handlers of other packages, and with them, if absl
is imported, the standard error."""
_HOUSEKEEPING_S = 5.0
_LOCK_WAIT_MS = 5000
_LOCK = 0x726C616C
"""Number of the advisory lock of PostgreSQL, which holds for one database."""


def masked(path: str) -> str:
    """Return a path without the token of a personal link.

    Example:
        >>> masked("/j/abc?PID=1")
        '/j/***?PID=1'
    """
    return _TOKEN.sub(r"\1***", path)


class _MaskedLog:
    """Middleware: prints a line per request, without tokens, query values, cookies or addresses."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()

        async def logged(message: Any) -> None:
            if message["type"] == "http.response.start":
                took = 1000 * (time.perf_counter() - start)
                print_text(f"{scope['method']} {masked(scope['path'])} {message['status']} {took:.0f} ms")
            await send(message)

        await self.app(scope, receive, logged)


@contextmanager
def housekeeping(store: Store) -> Iterator[None]:
    """Give back the items whose time is over, select items and follow the stop rule, while the block runs."""
    stopped = threading.Event()
    study = store.study()
    if study.selection == "uncertainty":
        enroll_next(store, study)

    def follow_stop_rule(counted: int) -> int:
        """Return the number of votes that the rule has seen; it is computed again only when there are more."""
        votes: int = store.read(progress)["votes"]
        if votes > counted and store.read(lambda c: is_complete(c, study)):
            store.write(complete).result()
        return votes

    def work() -> None:
        counted = -1
        while not stopped.wait(_HOUSEKEEPING_S):
            try:
                store.write(expire).result()
                if study.selection == "uncertainty":
                    enroll_next(store, study)
                if study.stop.votes or study.stop.width:
                    counted = follow_stop_rule(counted)
            except Exception as error:  # a full disk may be freed: the next turn tries again
                print_text(f"rlalign: {in_one_line(str(error))}", to_stderr=True)

    thread = threading.Thread(target=work, name="feedback-housekeeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class _Server(uvicorn.Server):
    """A server that calls a function when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def serve(
    location: str | Path,
    *,
    host: str,
    port: int,
    limits: Limits,
    secure: bool,
    log: bool,
    ready: Callable[[Link, int], None],
) -> None:
    """Serve a study until a signal ends the process. Requests that are answered are stored.

    Args:
        location: of the store.
        host: address to listen on.
        port: port to listen on.
        limits: limits of requests.
        secure: the pages are served by HTTPS, by a proxy in front.
        log: print a line per request.
        ready: is called with a new administrator's link and the port when the server listens.

    Raises:
        UserError: the store cannot be opened, or is served by another process.
        FaultError: the port is taken.
    """
    with Store(location) as store, only_server(store):
        app = make_app(store, limits, secure=secure)
        config = uvicorn.Config(
            _MaskedLog(app) if log else app, access_log=False, **_LOGGING, proxy_headers=secure,
            server_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise FaultError(
                f"port {port} of {host} cannot be opened ({error.strerror}); use another --port"
            ) from error
        # made when the port is open: a server that cannot start ends no earlier link
        link: Link = store.write(_admin_link).result()
        server = _Server(config, lambda: ready(link, listener.getsockname()[1]))
        freeze_modules()
        with housekeeping(store), listener:
            server.run(sockets=[listener])


def freeze_modules() -> None:
    """Take the modules that are loaded out of the garbage collection, which stops all threads for 0.2 s otherwise."""
    gc.collect()
    gc.freeze()


@contextmanager
def only_server(store: Store) -> Iterator[None]:
    """Hold the lock of the server of a store: a second one would end the administrator's link of the first.

    Raises:
        UserError: another process serves the store.
    """
    message = f"'{store.location}' is served already; stop that server first, or open its pages"
    if store.postgres:
        with store.snapshot() as connection:  # the lock ends with the connection
            # the database takes a moment to notice that a server was killed
            connection.execute(sa.text(f"SET lock_timeout = {_LOCK_WAIT_MS}"))
            try:
                connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK)))
            except sa.exc.OperationalError as error:
                raise UserError(message) from error
            connection.execute(sa.text("SET lock_timeout = 0"))
            connection.commit()
            yield
        return
    with Path(f"{store.location}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(message) from error
        yield


def _admin_link(connection: Any) -> Link:
    """Return a new administrator's link; earlier ones that `serve` made are revoked."""
    earlier = sa.update(annotator).where(annotator.c.scope == "admin", annotator.c.revoked.is_(None))
    connection.execute(earlier.values(revoked=now_ms()))
    return invite(connection, 1, 30, "admin", actor="serve")[0]


@contextmanager
def in_background(store: Store, limits: Limits | None = None, *, log: bool = False) -> Iterator[str]:
    """Serve an open store on a free port of this machine while the block runs; return the address.

    Args:
        store: the open store.
        limits: limits of requests; None: none.
        log: print a line per request.
    """
    app = make_app(store, limits or Limits(0, 1, 0))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(_MaskedLog(app) if log else app, access_log=False, **_LOGGING)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        with housekeeping(store):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
