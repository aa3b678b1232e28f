"""A judge behind an OpenAI-compatible endpoint on this machine, whose rule is known."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

Rule = Callable[[str, str], str]
_BLOCK = re.compile(r"<<<(answer [AB]) (\w+)>>>\n(.*?)\n<<<end of \1 \2>>>", re.DOTALL)


def prefers_longer(a: str, b: str) -> str:
    return f"Length decides.\n[[{'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'C'}]]"


def prefers_first(_a: str, _b: str) -> str:
    return "**Final verdict: [[A]]**"


class FakeJudge:
    """The state of the server: its rule, its next answers, and the requests that it got."""

    def __init__(self) -> None:
        self.port = 0
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget the requests, and answer by the length of the completions."""
        self.rule: Rule = prefers_longer  # takes the completions as they are shown, and returns the content
        self.failures: list[Response] = []  # answers of the next requests, before the rule is asked
        self.hangs = 0  # requests that get no answer
        self.extra: dict[str, Any] = {}  # of the choice, such as finish_reason
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def seen(self) -> list[tuple[str, str]]:
        """Return the completions of each request in their order."""
        found = []
        for body in self.requests:
            blocks = {name: text for name, _, text in _BLOCK.findall(body["messages"][-1]["content"])}
            found.append((blocks["answer A"], blocks["answer B"]))
        return found

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        def complete(body: dict[str, Any], request: Request) -> Response:
            with self.lock:
                self.requests.append(body)
                self.headers.append(dict(request.headers))
                self.queries.append(request.url.query)
                hang, self.hangs = self.hangs > 0, max(0, self.hangs - 1)
                failure = self.failures.pop(0) if self.failures and not hang else None
            if hang:
                self.released.wait()
            if failure is not None:
                return failure
            blocks = {name: text for name, _, text in _BLOCK.findall(body["messages"][-1]["content"])}
            content = self.rule(blocks["answer A"], blocks["answer B"])
            choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **self.extra}
            return JSONResponse({"model": f"served-{body['model']}", "choices": [choice]})

        return app


def failure(status: int, message: str = "no", **headers: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status, headers=headers)


def page(text: str) -> Response:
    return PlainTextResponse(text)


@contextmanager
def served(judge: FakeJudge) -> Iterator[FakeJudge]:
    """Serve a judge on a free port while the block runs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # a client that comes before the server waits
    server = uvicorn.Server(uvicorn.Config(judge.app(), access_log=False, log_config=None, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    judge.port = listener.getsockname()[1]
    judge.reset()
    try:
        yield judge
    finally:
        judge.released.set()
        server.should_exit = True
        thread.join()
        listener.close()
