"""Latency of the feedback server: 100,000 items, 200,000 votes, 50 clients, next and vote in turn.

    python benchmarks/feedback.py                                    # SQLite
    python benchmarks/feedback.py --postgres postgresql://user@host/database    # an empty database
    python benchmarks/feedback.py --items 2000 --seconds 3           # a trial

The clients stand on the machine of the server, in another process, and use raw connections that are kept open. Once
they think for a second between two requests, once they do not wait. Rate limits are off. The report is the median, the
95th percentile and the worst answer in milliseconds, and requests per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from machine import write

from rlalign.feedback import tables
from rlalign.feedback.people import csrf_token, invite, sign_in
from rlalign.feedback.sampling import Completion, Content, make_store
from rlalign.feedback.store import Store, now_ms
from rlalign.feedback.study import Study
from rlalign.feedback.web.access import COOKIE

CLIENTS = 50


def build(location: str, items: int, votes: int) -> None:
    """Make a store with votes that earlier people gave to its first items."""
    study = Study(name="benchmark", completions="none.jsonl", break_items=10**9, break_minutes=1e9)
    prompts = [([{"role": "text", "content": f"prompt {i}"}], "") for i in range(items)]
    completions = [Completion(i, p, f"answer {p} of {i}", 4, cut=False) for i in range(items) for p in (0, 1)]
    make_store(location, study, Path(), Content([("a", ""), ("b", "")], prompts, completions))
    with Store(location) as store:
        store.write(lambda c: invite(c, CLIENTS, None)).result()
        people = store.read(lambda c: list(c.execute(sa.select(tables.annotator.c.id)).scalars()))
        for start in range(0, votes // 3, 5000):
            store.write(lambda c, s=start: fill(c, people, range(s, min(s + 5000, votes // 3)))).result()  # type: ignore[misc]  # of now


def fill(connection: sa.Connection, people: list[int], items: range) -> None:
    """Add three votes to each of some items."""
    rng = random.Random(items.start)
    leases: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    at = now_ms()
    for number in items:
        for person in rng.sample(people, 3):
            lease_id = number * 3 + len(leases) % 3 + 1
            order = json.dumps([2 * number + 1, 2 * number + 2])
            leases.append(
                {"id": lease_id, "item": number + 1, "annotator": person, "given": at, "expires": at, "state": "done",
                 "order_json": order}
            )  # fmt: skip
            rows.append(
                {"lease": lease_id, "item": number + 1, "annotator": person, "kind": "pair", "choice": "a",
                 "order_json": order, "at": at, "elapsed_ms": 1000, "active_ms": 1000, "seen": 1, "unfolded": 0,
                 "guidelines_hash": "", "source": "person", "body_hash": ""}
            )  # fmt: skip
    connection.execute(sa.insert(tables.lease), leases)
    connection.execute(sa.insert(tables.vote), rows)
    done = sa.update(tables.item).where(tables.item.c.id.between(items.start + 1, items.stop)).values(free=0)
    connection.execute(done)
    if connection.dialect.name == "postgresql":  # ids were given, so the sequence has not moved
        connection.execute(sa.text("SELECT setval('lease_id_seq', (SELECT max(id) FROM lease))"))


def serve(location: str, ready: Any, stop: Any) -> None:
    """Serve in a process of its own until the event is set."""
    from rlalign.feedback.web.serve import freeze_modules, in_background

    with Store(location) as store, in_background(store) as address:
        freeze_modules()  # as `rlalign feedback serve` does
        ready.put(address)
        stop.wait()


class Client:
    """A connection that is kept open."""

    def __init__(self, host: str, port: int, cookie: str) -> None:
        self.host, self.port, self.cookie = host, port, cookie

    async def open(self) -> None:
        """Connect."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def post(self, path: str, body: Any) -> Any:
        """Send a request and return the content of its answer."""
        content = json.dumps(body).encode()
        head = (
            f"POST /api/{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nCookie: {COOKIE}={self.cookie}\r\n"
            f"X-CSRF: {csrf_token(self.cookie)}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self.writer.write(head.encode() + content)
        header = await self.reader.readuntil(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        length = next(
            int(line.split(b":")[1]) for line in header.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        answer = json.loads(await self.reader.readexactly(length))
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer}")
        return answer


async def load(address: str, cookies: list[str], seconds: float, think: float) -> list[tuple[str, float]]:
    """Return the kind and the milliseconds of each request of all clients."""
    host, _, port = address.removeprefix("http://").partition(":")
    times: list[tuple[str, float]] = []
    end = time.perf_counter() + seconds

    async def timed(client: Client, path: str, body: Any) -> Any:
        start = time.perf_counter()
        answer = await client.post(path, body)
        times.append((path, 1000 * (time.perf_counter() - start)))
        return answer

    async def work(cookie: str, number: int) -> None:
        client = Client(host, int(port), cookie)
        await client.open()
        rng = random.Random(number)
        await asyncio.sleep(think * rng.random())  # people do not begin at once
        while time.perf_counter() < end:
            item = await timed(client, "next", {})
            if think:
                await asyncio.sleep(think * rng.uniform(0.5, 1.5))
            await timed(client, "vote", {"lease": item["lease"], "choice": rng.choice(("a", "b", "tie"))})
            if think:
                await asyncio.sleep(think * rng.uniform(0.5, 1.5))

    await asyncio.gather(*(work(cookie, i) for i, cookie in enumerate(cookies)))
    return times


def summary(times: list[tuple[str, float]], seconds: float) -> dict[str, float]:
    """Return percentiles of the answers."""
    every = np.array([t for _, t in times])
    return {
        "requests_per_s": round(len(every) / seconds, 1),
        "p50_ms": round(float(np.percentile(every, 50)), 1),
        "p95_ms": round(float(np.percentile(every, 95)), 1),
        "worst_ms": round(float(every.max()), 1),
    }


def measure(location: str, seconds: float) -> dict[str, Any]:
    """Return the latencies of both kinds of load."""
    with Store(location) as store:
        links = store.write(lambda c: invite(c, CLIENTS, None)).result()
        cookies = [store.write(lambda c, x=x: sign_in(c, x.token, ("annotator",))).result() for x in links]  # type: ignore[misc]  # of now
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Queue(), context.Event()
    process = context.Process(target=serve, args=(location, ready, stop))
    process.start()
    address = ready.get(timeout=60)
    try:
        asyncio.run(begin(address, cookies))
        results = {}
        for name, think in (("think_1s", 1.0), ("no_pause", 0.0)):
            results[name] = summary(asyncio.run(load(address, cookies, seconds, think)), seconds)
            print(f"{name:10} {results[name]}", flush=True)
    finally:
        stop.set()
        process.join()
    return results


async def begin(address: str, cookies: list[str]) -> None:
    """Let all clients consent and read the guidelines."""
    host, _, port = address.removeprefix("http://").partition(":")
    from rlalign.feedback.study import text_of
    from rlalign.feedback.web.server import _version

    study = Study(name="benchmark", completions="none.jsonl")
    for cookie in cookies:
        client = Client(host, int(port), cookie)
        await client.open()
        await client.post("consent", {"version": _version(text_of(study, "consent", Path())), "agreed": True})
        await client.post("guidelines", {"version": _version(text_of(study, "guidelines", Path()))})
        client.writer.close()


def check(location: str) -> None:
    """Assert that no item has too many votes and that the free places are right."""
    with Store(location) as store:

        def query(c: sa.Connection) -> None:
            votes = sa.select(tables.vote.c.item, sa.func.count().label("n")).group_by(tables.vote.c.item).subquery()
            opened = (
                sa.select(tables.lease.c.item, sa.func.count().label("n"))
                .where(tables.lease.c.state == "open").group_by(tables.lease.c.item).subquery()
            )  # fmt: skip
            left = tables.item.c.needed - sa.func.coalesce(votes.c.n, 0) - sa.func.coalesce(opened.c.n, 0)
            wrong = (
                sa.select(sa.func.count()).select_from(tables.item)
                .outerjoin(votes, votes.c.item == tables.item.c.id)
                .outerjoin(opened, opened.c.item == tables.item.c.id)
                .where(tables.item.c.free != left)
            )  # fmt: skip
            assert c.execute(wrong).scalar_one() == 0

        store.read(query)


def main() -> None:
    """Measure a store of each kind that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--votes", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--postgres", help="URL of an empty database; measured after SQLite")
    arguments = parser.parse_args()
    results = {"clients": CLIENTS, "items": arguments.items, "votes": arguments.votes}
    with tempfile.TemporaryDirectory() as folder:
        locations = {"sqlite": f"{folder}/study.db"}
        if arguments.postgres:
            locations["postgresql"] = arguments.postgres
        for name, location in locations.items():
            print(name, flush=True)
            build(location, arguments.items, min(arguments.votes, 3 * arguments.items // 2))
            results[name] = measure(location, arguments.seconds)
            check(location)
            print(write("feedback", results))


if __name__ == "__main__":
    main()
