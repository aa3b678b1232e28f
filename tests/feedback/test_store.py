"""The store: requests of one group are separate, an answer means a commit, and votes are never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import sqlalchemy as sa

from rlalign.errors import FaultError, UserError
from rlalign.feedback import store as store_module
from rlalign.feedback import tables
from rlalign.feedback.store import Store, filesystem, log_event
from tests.feedback.conftest import Client, build, write_study

Open = Callable[..., Store]


def test_a_failing_request_undoes_its_own_changes_only(open_study: Open) -> None:
    store = open_study()

    def fail(c: sa.Connection) -> None:
        log_event(c, "bad", "look")
        raise ValueError("no")

    futures: list[Future[Any]] = []
    for i in range(20):
        futures.append(store.write(lambda c, i=i: log_event(c, f"good {i}", "look")))  # type: ignore[misc]  # the number of now
        futures.append(store.write(fail))
    for good, bad in zip(futures[::2], futures[1::2], strict=True):
        good.result()
        with pytest.raises(ValueError, match="no"):
            bad.result()
    actors = store.read(lambda c: c.execute(sa.select(tables.event.c.actor)).scalars().all())
    assert sorted(a for a in actors if a.startswith("good")) == sorted(f"good {i}" for i in range(20))
    assert "bad" not in actors


def test_an_answer_means_that_the_change_is_committed(tmp_path: Path) -> None:
    location = tmp_path / "study.db"
    with build(write_study(tmp_path), location) as store:
        store.write(lambda c: log_event(c, "me", "look")).result()
        # another connection, which sees commits only
        other = sqlite3.connect(location)
        assert other.execute("SELECT count(*) FROM event WHERE actor = 'me'").fetchone() == (1,)
        other.close()


def test_a_failed_commit_fails_every_request_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with build(write_study(tmp_path), tmp_path / "study.db") as store:
        monkeypatch.setattr(sa.Connection, "begin", lambda _: (_ for _ in ()).throw(RuntimeError("disk full")))
        future = store.write(lambda c: log_event(c, "me", "look"))
        with pytest.raises(RuntimeError, match="disk full"):
            future.result(timeout=20)
        monkeypatch.undo()
        store.write(lambda c: log_event(c, "later", "look")).result(timeout=20)


def test_durable_and_strict(tmp_path: Path) -> None:
    with build(write_study(tmp_path), tmp_path / "study.db") as store:
        pragmas = store.write(
            lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")]
        ).result()
        assert pragmas == ["wal", 2]  # 2: FULL
        with pytest.raises(sa.exc.DatabaseError):
            store.write(lambda c: c.exec_driver_sql("UPDATE item SET needed = 'many'")).result()
        with pytest.raises(sa.exc.DatabaseError):
            store.read(lambda c: c.exec_driver_sql("DELETE FROM item"))


@pytest.mark.parametrize(
    "statement", ["UPDATE vote SET choice = 'b'", "UPDATE vote SET at = at + 1", "DELETE FROM vote"]
)
def test_votes_are_append_only(statement: str, open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    client.vote("a")
    with pytest.raises(sa.exc.DatabaseError, match="a vote is never"):
        store.write(lambda c: c.exec_driver_sql(statement)).result()
    store.write(lambda c: c.exec_driver_sql("UPDATE vote SET withdrawn = 1")).result()


def test_free_places_are_never_negative(open_study: Open) -> None:
    store = open_study()
    with pytest.raises(sa.exc.IntegrityError):
        store.write(lambda c: c.execute(sa.update(tables.item).values(free=-1))).result()


def test_a_store_is_made_once(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    build(path, tmp_path / "study.db").close()
    with pytest.raises(UserError, match="exists already"):
        build(path, tmp_path / "study.db")
    with pytest.raises(UserError, match="rlalign feedback sample"):
        Store(tmp_path / "none.db")


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but some text that is long enough to have a header of its own")
    with pytest.raises(UserError, match="no store of feedback"):
        Store(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE study (id INTEGER)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(UserError, match="no store of feedback"):
        Store(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before


def test_odd_names_and_missing_folders(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    build(path, tmp_path / "what? #1%.db").close()
    assert (tmp_path / "what? #1%.db").is_file()
    with pytest.raises(UserError, match="make it first"):
        build(path, tmp_path / "none" / "study.db")


def test_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "filesystem", lambda _: "nfs4")
    with pytest.raises(UserError, match=r"network disk \(nfs4\).*local disk or a PostgreSQL URL"):
        Store(tmp_path / "study.db", create=True)


def test_the_file_system_of_a_path_is_read() -> None:
    assert filesystem(Path("/proc/self/status")) == "proc"


def test_the_log_is_copied_into_the_file_beside_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_CHECKPOINT_REQUESTS", 1)
    path = tmp_path / "study.db"
    # the file without its log: what another connection reads if it ignores the log
    alone = f"{path.absolute().as_uri()}?mode=ro&immutable=1"

    def names() -> set[str]:
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(alone, uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT what FROM event")}
        return set()  # read in the middle of the copy

    with build(write_study(tmp_path), path) as store:
        # the copy is the work of another thread, which comes between two commits sooner or later
        for _ in range(2000):
            store.write(lambda c: log_event(c, "test", "look")).result()
            if "look" in names():
                break
        assert "look" in names()


def test_all_waiting_requests_are_answered_before_the_store_closes(tmp_path: Path) -> None:
    build(write_study(tmp_path), tmp_path / "study.db").close()
    store = Store(tmp_path / "study.db")
    go = Event()
    order: list[int] = []
    blocked = store.write(lambda _: go.wait())
    # more than one group
    futures = [store.write(lambda _, i=i: order.append(i)) for i in range(600)]  # type: ignore[misc]  # of now
    closing = Thread(target=store.close)
    closing.start()
    go.set()
    closing.join(60)
    assert blocked.done()
    assert [future.done() for future in futures] == [True] * 600
    assert order == sorted(order)


def test_a_request_beside_the_end_is_refused_or_answered(tmp_path: Path) -> None:
    build(write_study(tmp_path), tmp_path / "study.db").close()
    for _ in range(5):
        store = Store(tmp_path / "study.db")
        futures: list[Future[Any]] = []

        def ask(store: Store = store, futures: list[Future[Any]] = futures) -> None:
            with suppress(FaultError):
                while True:
                    futures.append(store.write(lambda _: None))

        threads = [Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        store.close()
        for thread in threads:
            thread.join()
        assert all(future.done() for future in futures)
