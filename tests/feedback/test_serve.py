"""The server process: its log, and kills at any moment, after which every acknowledged vote is there."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rlalign.errors import FaultError, UserError
from rlalign.feedback import tables
from rlalign.feedback.people import csrf_token, find_link, invite
from rlalign.feedback.store import Store
from rlalign.feedback.web import serve as serve_module
from rlalign.feedback.web.access import COOKIE
from rlalign.feedback.web.serve import in_background, masked, only_server, serve
from rlalign.feedback.web.server import Limits
from tests.feedback.conftest import build, check_places, write_study

CLIENTS = 8


def test_tokens_are_masked_in_the_log() -> None:
    assert masked("/j/secret") == "/j/***"
    assert masked("/admin/j/secret?PROLIFIC_PID=1") == "/admin/j/***?PROLIFIC_PID=1"
    assert masked("/api/vote") == "/api/vote"


class Server:
    """A server process of a store, on one port for all its starts."""

    def __init__(self, location: str) -> None:
        self.location = location
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when the server prints the administrator's link."""
        command = [sys.executable, "-m", "rlalign", "feedback", "serve", self.location, "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--rate", "0", "--no-log"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        assert any("administrator:" in line for line in iter(self.process.stdout.readline, ""))
        # the socket listens before the line is printed, so a client waits until the server accepts it

    def kill(self) -> None:
        """Kill the process as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Voter:
    """A client that keeps what was acknowledged, and sends the vote again whose answer was lost."""

    def __init__(self, server: Server, path: str, seed: int) -> None:
        self.server, self.rng = server, random.Random(seed)
        self.acknowledged: dict[int, tuple[int, str]] = {}
        self.unanswered: dict[str, Any] | None = None
        self.finished = False
        self.client = httpx.Client(base_url=server.address, timeout=30.0)
        assert self.client.post(path).status_code == 303
        self.client.headers["X-CSRF"] = csrf_token(self.client.cookies[COOKIE])
        me = self.client.get("/api/me").json()
        self.post("consent", {"version": me["consent_version"], "agreed": True})
        self.post("guidelines", {"version": me["guidelines_version"]})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.client.post(f"/api/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def work(self, voted: Any) -> None:
        """Vote until nothing is left or the server is gone."""
        try:
            while True:
                if self.unanswered is None:
                    item = self.post("next", {})
                    if item is None:
                        self.finished = True
                        return
                    self.unanswered = {"lease": item["lease"], "choice": self.rng.choice(("a", "b", "tie", "bad"))}
                saved = self.post("vote", self.unanswered)
                self.acknowledged[saved["vote"]] = (self.unanswered["lease"], self.unanswered["choice"])
                self.unanswered = None
                voted()
        except httpx.TransportError:
            return


class _Countdown:
    """Kills a server at a number of votes; 0: never."""

    def __init__(self, server: Server, votes: int) -> None:
        self.server, self.left = server, votes
        self.lock = Lock()

    def __call__(self) -> None:
        with self.lock:
            self.left -= 1
            if self.left == 0:
                self.server.process.send_signal(signal.SIGKILL)


def kill_while_people_vote(location: str, kills: int, seed: int, between: int) -> None:
    """Kill the server after random numbers of votes, let people finish, and compare their records with the store."""
    rng = random.Random(seed)
    server = Server(location)
    with Store(location) as store:
        links = store.write(lambda c: invite(c, CLIENTS, None)).result()
    server.start()
    voters = [Voter(server, link.path, seed + i) for i, link in enumerate(links)]
    for turn in range(kills + 1):
        count = _Countdown(server, rng.randint(1, between) if turn < kills else 0)
        threads = [Thread(target=voter.work, args=(count,)) for voter in voters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        if turn < kills:
            server.start()
    assert all(voter.finished for voter in voters)
    with Store(location) as store:
        rows = store.read(lambda c: c.execute(sa.select(tables.vote)).all())
        stored = {row.id: (row.lease, row.choice) for row in rows}
        acknowledged = [item for voter in voters for item in voter.acknowledged.items()]
        assert len(dict(acknowledged)) == len(acknowledged), "a vote was acknowledged twice"
        assert dict(acknowledged) == stored
        assert len({row.lease for row in rows}) == len(rows)
        assert len({(row.item, row.annotator) for row in rows}) == len(rows)
        check_places(store)


def study(folder: Path, prompts: int) -> Path:
    return write_study(folder, "votes_per_item = 3\nbreak_items = 100000\n", prompts=prompts)


@pytest.mark.parametrize("location", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True)
def test_every_acknowledged_vote_survives_kills(tmp_path: Path, location: str) -> None:
    build(study(tmp_path, 60), location).close()
    kill_while_people_vote(location, kills=2, seed=0, between=60)


@pytest.mark.slow
def test_every_acknowledged_vote_survives_thirty_kills(tmp_path: Path, location: str) -> None:
    build(study(tmp_path, 900), location).close()
    kill_while_people_vote(location, kills=30, seed=1, between=80)


def test_a_store_has_one_server(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "_LOCK_WAIT_MS", 50)
    build(study(tmp_path, 2), location).close()
    with Store(location) as store, Store(location) as other, only_server(store):
        second = only_server(other)
        with pytest.raises(UserError, match="is served already"):
            second.__enter__()
    with Store(location) as store, only_server(store):
        pass


def test_a_server_that_cannot_start_ends_no_link(tmp_path: Path) -> None:
    build(study(tmp_path, 2), tmp_path / "study.db").close()
    with Store(tmp_path / "study.db") as store:
        (link,) = store.write(lambda c: invite(c, 1, None, "admin")).result()
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FaultError, match="use another --port"):
            serve(
                tmp_path / "study.db", host="127.0.0.1", port=taken.getsockname()[1], limits=Limits(), secure=False,
                log=False, ready=lambda *_: None,
            )  # fmt: skip
        store.read(lambda c: find_link(c, link.token, ("admin",)))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    build(study(tmp_path, 2), tmp_path / "study.db").close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "rlalign", "feedback", "serve", str(tmp_path / "study.db"), "--port", port]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "use another --port" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_server_in_the_background_closes_no_handler_of_others(tmp_path: Path) -> None:
    closed: list[logging.Handler] = []

    class Handler(logging.StreamHandler[Any]):
        def close(self) -> None:
            closed.append(self)

    handler = Handler()
    with build(study(tmp_path, 2), tmp_path / "study.db") as store, in_background(store):
        pass
    assert handler not in closed
