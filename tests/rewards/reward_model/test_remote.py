"""A reward-model server: batches, timeouts, retries. The server answers from a list, on a port of this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from rlalign.errors import RewardError, UserError
from rlalign.rewards import compose
from rlalign.rewards.reward_model.remote import RemoteReward


class _Server:
    """Scores the length of each completion, after the states of a script."""

    def __init__(self) -> None:
        self.script: list[int] = []
        self.requests: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.answer: object = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                state = outer.script.pop(0) if outer.script else 200
                self.send_response(state)
                if state == 302:
                    self.send_header("Location", "http://127.0.0.1:9/other")
                self.end_headers()
                if state == 200:
                    values = {
                        "rewards": [
                            len(c) + 100 * t for c, t in zip(body["completions"], body["truncated"], strict=True)
                        ]
                    }
                    self.wfile.write(json.dumps(values if outer.answer is None else outer.answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/score"


@pytest.fixture
def server():
    made = _Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_scores_come_in_batches_in_order(server):
    reward = RemoteReward(server.url)
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    assert reward(["p"] * 5, texts, [False] * 4 + [True], batch=2) == [1, 2, 3, 4, 105]
    assert [len(request["prompts"]) for request in server.requests] == [2, 2, 1]
    assert server.requests[2] == {"prompts": ["p"], "completions": ["eeeee"], "truncated": [True]}


def test_is_a_reward_by_its_url(server):
    with compose(f"{server.url}?batch=2=0.5") as total:
        scores = total.score("episode", ["p"] * 3, ["a", "bb", "ccc"], [[1]] * 3, truncated=[False] * 3)
    assert scores.total.tolist() == [0.5, 1.0, 1.5]
    assert len(server.requests) == 2


def test_temporary_failures_are_retried_with_growing_pauses(server):
    server.script = [503, 429, 500]
    pauses: list[float] = []
    assert RemoteReward(server.url, pauses.append)(["p"], ["abc"], [False]) == [3.0]
    assert pauses == [1.0, 2.0, 4.0]
    server.script = [503] * 4
    with pytest.raises(RuntimeError, match="got HTTP 503 after 2 attempts"):
        RemoteReward(server.url, pauses.append)(["p"], ["abc"], [False], attempts=2)


def test_refusals_and_redirects_are_not_retried(server):
    for state, message in ((401, "got HTTP 401"), (302, "got a redirect")):
        server.requests.clear()
        server.script = [state]
        with pytest.raises(UserError, match=message):
            RemoteReward(server.url, lambda _: pytest.fail("paused"))(["p"], ["c"], [False])
        assert len(server.requests) == 1


def test_wrong_answers_are_named(server):
    for answer, message in (({"rewards": [1, 2]}, "expected 1 rewards, got 2"), ([1], "got another answer")):
        server.answer = answer
        with pytest.raises(RuntimeError, match=message):
            RemoteReward(server.url)(["p"], ["c"], [False])
    server.answer = {"scores": [None]}
    assert np.isnan(RemoteReward(server.url)(["p"], ["c"], [False])[0])


def test_key_comes_from_the_environment(server, monkeypatch):
    with pytest.raises(UserError, match="'RM_KEY', which is not set"):
        RemoteReward(server.url)(["p"], ["c"], key_variable="RM_KEY")
    monkeypatch.setenv("RM_KEY", "secret\n")
    RemoteReward(server.url)(["p"], ["c"], key_variable="RM_KEY")
    assert server.keys == ["Bearer secret"]


def test_no_server_is_a_failed_reward(server):
    server.http.server_close()
    with compose(f"{server.url}?attempts=1") as total, pytest.raises(RewardError, match="use a running server"):
        total.score("episode", ["p"], ["c"], [[1]], truncated=[False])
