"""Studies, stores of both kinds, and signed-in clients."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

import sqlalchemy as sa

from rlalign.feedback import tables
from rlalign.feedback.people import invite, sign_in
from rlalign.feedback.sampling import make_store, sample
from rlalign.feedback.selection import SELECTIONS
from rlalign.feedback.store import Store
from rlalign.feedback.study import read_study
from rlalign.feedback.web.access import ADMIN_COOKIE, COOKIE
from rlalign.feedback.web.app import make_app
from rlalign.feedback.web.server import Limits

PRACTICE = """
[[practice]]
prompt = "2 + 2 ="
completions = ["4", "5"]
answer = "a"
explanation = "Four is **right**."
"""
CHECK = """
[[check]]
prompt = "3 + 3 ="
completions = ["6", "7"]
answer = "a"
"""
GOLD = """
[[gold]]
prompt = "1 + 1 ="
completions = ["2", "3"]
answer = "a"
"""


@contextmanager
def fixed_draws() -> Iterator[None]:
    """Draw names and seeds of people, and the items that they get, from one seed within the block.

    The library draws them from the system and the clock. Tests whose people act one after the other then have one
    outcome: they raise no false alarm. Tokens, cookies and other processes stay random.
    """
    rng = random.Random(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.randbits", rng.getrandbits)
        patch.setattr("random.SystemRandom", lambda: rng)
        for name, choose in list(SELECTIONS.items()):
            patch.setitem(SELECTIONS, name, lambda _, choose=choose: choose(rng))
        yield


@pytest.fixture(autouse=True)
def _fixed_draws() -> Iterator[None]:
    """Fixed draws in all tests; fixtures of a module use `fixed_draws`."""
    with fixed_draws():
        yield


def write_study(folder: Path, text: str = "", *, prompts: int = 6, completions: int = 2) -> Path:
    """Write a study of completions of two policies, or more, and return its path."""
    names = ("left", "right", "third", "fourth")[:completions]
    rows = [
        {
            "prompt": f"prompt {'abcdefghijklmnopqrstuvwxyz'[i % 26] * (i // 26 + 1)}{i}",
            "policy": name,
            "completion": f"{name} {i}",
        }
        for i in range(prompts)
        for name in names
    ]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(f'name = "numbers"\ncompletions = "completions.jsonl"\n{text}', encoding="utf-8")
    return path


def build(path: Path, location: str | Path) -> Store:
    """Make the store of a study and open it."""
    study = read_study(path)
    make_store(location, study, path.parent, sample(study, path.parent))
    return Store(location)


def postgres_programs() -> Path | None:
    """Return the folder of the programs of the newest PostgreSQL on this machine."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if folders:
        return folders[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of PostgreSQL on a free port of this machine; the address without a database."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    # initdb and the server refuse to run as root
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user and subprocess.run([*user, "true"], check=False, capture_output=True).returncode:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    if user:
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent == Path("/tmp") or parent == parent.parent:
                break
            parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    make = [*user, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*user, programs / "pg_ctl", "-D", data]
    subprocess.run([*control, "-w", "-o", options, "-l", folder / "log", "start"], check=True, capture_output=True)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)


@pytest.fixture
def new_database(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return a function that makes an empty database and returns its URL."""
    server = request.getfixturevalue("postgres_server")

    def make() -> str:
        name = f"d{uuid.uuid4().hex[:12]}"
        engine = sa.create_engine(f"{server.replace('://', '+psycopg://')}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"{server}/{name}"

    return make


_OF_BOTH = ("test_store", "test_items", "test_migrations", "test_serve")
"""Modules whose tests run on PostgreSQL too; those of the others do so in .ci/slow."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a store on both kinds, but those that choose one."""
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "location" not in metafunc.fixturenames or "location" in chosen:
        return
    both = metafunc.module.__name__.rpartition(".")[2] in _OF_BOTH
    postgres = pytest.param("postgres", marks=() if both else pytest.mark.slow)
    metafunc.parametrize("location", ["sqlite", postgres], indirect=True)


@pytest.fixture
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of a new store of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "study.db")
    url: str = request.getfixturevalue("new_database")()
    return url


@pytest.fixture
def open_study(tmp_path: Path, location: str) -> Iterator[Callable[..., Store]]:
    """Return a function that makes and opens a study of the settings that it gets."""
    stores = []

    def make(text: str = "", **shape: int) -> Store:
        store = build(write_study(tmp_path, text, **shape), location)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


class Client:
    """A client of an application in this process, signed in as a person.

    Args:
        store: the store.
        scope: annotator or admin.
        app: the application; None: a new one without limits.
    """

    def __init__(self, store: Store, scope: Any = "annotator", app: Any = None) -> None:
        from starlette.testclient import TestClient

        self.store = store
        (self.link,) = store.write(lambda c: invite(c, 1, None, scope)).result()
        value = store.write(lambda c: sign_in(c, self.link.token, (scope,))).result()
        app = app or make_app(store, Limits(0, 1, 0))
        self.http = TestClient(app, base_url="http://testserver", raise_server_exceptions=False, follow_redirects=False)
        self.http.cookies.set(ADMIN_COOKIE if scope == "admin" else COOKIE, value)
        from rlalign.feedback.people import csrf_token

        self.csrf = csrf_token(value)

    def api(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Send a JSON request and return the content of the answer."""
        answer = self.http.post(f"/api/{path}", json={} if body is None else body, headers={"X-CSRF": self.csrf})
        assert answer.status_code == status, answer.text
        return answer.json()

    def form(self, path: str, status: int = 303, **fields: Any) -> httpx.Response:
        """Send a form and return the answer."""
        answer: Any = self.http.post(path, data={"csrf": self.csrf, **fields})
        assert answer.status_code == status, answer.text
        return answer  # type: ignore[no-any-return]  # the client of starlette

    def begin(self) -> None:
        """Consent and read the guidelines."""
        me = self.http.get("/api/me").json()
        self.api("consent", {"version": me["consent_version"], "agreed": True})
        self.api("guidelines", {"version": me["guidelines_version"]})

    def vote(self, choice: str = "a", **more: Any) -> Any:
        """Answer the next item and return the answer of the server."""
        item = self.api("next")
        return self.api("vote", {"lease": item["lease"], "choice": choice, **more})

    @property
    def id(self) -> int:
        """The internal number of the person."""
        query = sa.select(tables.annotator.c.id).where(tables.annotator.c.pseudonym == self.link.pseudonym)
        return int(self.store.read(lambda c: c.execute(query).scalar_one()))


def check_places(store: Store) -> None:
    """Assert that the free places of each item are those that votes and open leases leave."""
    from rlalign.feedback.progress import counted_votes

    def check(c: sa.Connection) -> None:
        stored = counted_votes().subquery()
        votes = dict(
            c.execute(
                sa.select(stored.c.item, sa.func.count(sa.distinct(stored.c.annotator)))
                .where(stored.c.choice != "skip")
                .group_by(stored.c.item)
            ).all()
        )
        total = dict(
            c.execute(
                sa.select(stored.c.item, sa.func.count()).where(stored.c.choice != "skip").group_by(stored.c.item)
            ).all()
        )
        assert votes == total, "a person counts twice"
        opened = dict(
            c.execute(
                sa.select(tables.lease.c.item, sa.func.count())
                .where(tables.lease.c.state == "open")
                .group_by(tables.lease.c.item)
            ).all()
        )
        for row in c.execute(sa.select(tables.item).where(tables.item.c.needed > 0)):
            assert row.free == row.needed - votes.get(row.id, 0) - opened.get(row.id, 0), row

    store.read(check)
