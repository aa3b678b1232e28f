"""A server with the completions interface that scores token ids with a policy, on a port of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch

from rlalign.policies.base import Policy
from rlalign.types import Sampling, Tokenizer


class TeacherServer:
    """Answers /v1/completions as vLLM ("vllm") or with an echoed prompt ("echo"), and /detokenize.

    Attributes:
        script: HTTP states of the next answers; 200 after them.
        requests: bodies of the requests for scores.
        form: of the answers.
        answer: in place of an answer, if it is not None.
    """

    def __init__(self, policy: Policy, tokenizer: Tokenizer | None = None) -> None:
        self.policy = policy
        self.tokenizer = policy.tokenizer if tokenizer is None else tokenizer
        self.script: list[int] = []
        self.requests: list[dict[str, Any]] = []
        self.form = "vllm"
        self.answer: Any = None
        self.detokenizes = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                state = outer.script.pop(0) if outer.script else 200
                if self.path == "/detokenize":
                    state = 200 if outer.detokenizes else 404
                self.send_response(state)
                self.end_headers()
                if state == 200:
                    self.wfile.write(json.dumps(outer.reply(self.path, body)).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a request."""
        if path == "/detokenize":
            return {"prompt": self.tokenizer.decode(body["tokens"])}
        assert path == "/v1/completions"
        self.requests.append(body)
        if self.answer is not None:
            return self.answer
        choices = [{"index": i, **self._choice(row)} for i, row in enumerate(body["prompt"])]
        return {"choices": choices[::-1]}  # the order of choices is not that of the prompts

    def _choice(self, ids: list[int]) -> dict[str, Any]:
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        mask[0, 0] = False
        with torch.no_grad():
            scores = self.policy.score(torch.tensor([ids]), torch.tensor([len(ids)]), mask, Sampling())
        values = scores.logprobs[0].tolist()
        if self.form == "echo":
            return {"logprobs": {"token_logprobs": [None, *values[1:], -1.5]}}  # one generated token
        entries = [{str(i): {"logprob": value, "rank": 1}} for i, value in zip(ids[1:], values[1:], strict=True)]
        return {"prompt_logprobs": [None, *entries]}


@contextmanager
def served(policy: Policy, tokenizer: Tokenizer | None = None) -> Iterator[TeacherServer]:
    """Serve a policy within the block."""
    server = TeacherServer(policy, tokenizer)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
