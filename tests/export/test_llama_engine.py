"""Requests to the server of llama.cpp, against a server that drops connections."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError

import pytest

from rlalign.export.llama_engine import LlamaEngine


class Dropping(http.server.BaseHTTPRequestHandler):
    """Closes the first connections without an answer, and answers the later ones."""

    dropped = 0
    drops = 0

    def do_POST(self) -> None:
        """Answer, or close the connection."""
        if type(self).dropped < type(self).drops:
            type(self).dropped += 1
            self.close_connection = True
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"tokens": [3]}')

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    """Return an engine without a model, whose server is `Dropping`."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Dropping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine = object.__new__(LlamaEngine)
    engine._url = f"http://127.0.0.1:{server.server_port}"
    yield engine
    server.shutdown()
    server.server_close()


def test_a_request_is_sent_again_when_the_server_drops_the_connection(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dropping, "dropped", 0)
    monkeypatch.setattr(Dropping, "drops", 3)
    assert engine._post("/tokenize", {"content": "a"}) == {"tokens": [3]}
    assert Dropping.dropped == 3


def test_a_server_that_always_drops_connections_is_an_error(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dropping, "dropped", 0)
    monkeypatch.setattr(Dropping, "drops", 100)
    with pytest.raises((URLError, ConnectionError)):
        engine._post("/tokenize", {"content": "a"})
    assert Dropping.dropped == 5
