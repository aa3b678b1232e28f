"""The store of a study: an SQLite file with one writer, or a PostgreSQL database.

SQLite's wait for a lock is not a queue: with 50 people, single transactions wait for seconds. Here one thread runs all
waiting requests, each as a savepoint of one transaction, and answers them after its one commit. An answer therefore
means that the change is on the disk. Readers have connections of their own and see the last commit.
"""

from __future__ import annotations

import json
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from rlalign.errors import FaultError, UserError
from rlalign.feedback import tables
from rlalign.feedback.study import Study, from_values

T = TypeVar("T")
Request = Callable[[sa.Connection], T]
"""A function of a connection in a transaction. It may be called again after a conflict, so it changes nothing else."""

_NETWORK_DISKS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "ceph", "fuse.ceph", "lustre", "glusterfs",
    "fuse.glusterfs", "beegfs", "gpfs", "ocfs2", "davfs", "fuse.s3fs",
)  # fmt: skip
_BUSY_MS = 10_000
"""Wait for another process that writes, such as `rlalign feedback invite` beside the server."""
_LARGEST_GROUP = 256
_CHECKPOINT_REQUESTS = 500
"""Requests after which the write-ahead log is copied into the file; a request changes about ten pages of 4 KiB."""
_LARGEST_LOG = 25_000
"""Pages of the write-ahead log, 100 MiB, at which the writer waits for the copy."""
_RETRIES = 8
_CONFLICTS = ("40001", "40P01", "23505")
"""PostgreSQL's codes of a serialization failure, of a deadlock, and of two tabs that take a lease at once."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def is_postgres(location: str | Path) -> bool:
    """Return True for the URL of a PostgreSQL database."""
    return str(location).startswith(("postgresql:", "postgres:", "postgresql+psycopg:"))


def shown_location(location: str | Path) -> str:
    """Return a location for messages: the password of a URL is hidden.

    Example:
        >>> shown_location("postgresql://me:secret@host/database")
        'postgresql://me:***@host/database'
    """
    return sa.make_url(str(location)).render_as_string() if is_postgres(location) else str(location)


class Store:
    """An open store.

    Args:
        location: of an SQLite file, or a URL such as postgresql://user@host/database.
        create: make a new store; else it must exist.

    Raises:
        UserError: the store does not exist, exists already, lies on a network disk, is no store of feedback, or has
            another version.
        FaultError: the database cannot be reached.
    """

    def __init__(self, location: str | Path, *, create: bool = False) -> None:
        self.location = shown_location(location)
        self.postgres = is_postgres(location)
        if self.postgres:
            self._engine = _postgres_engine(str(location))
            # few, as the threads share Python's lock: more of them only take it from each other
            self._threads = ThreadPoolExecutor(4, "feedback-store")
        else:
            path = Path(location)
            _check_file(path, create=create)
            self._engine = _sqlite_engine(path, writes=True)
            self._readers = _sqlite_engine(path, writes=False)
            self._waiting: queue.SimpleQueue[tuple[Request[Any], Future[Any]] | None] = queue.SimpleQueue()
            self._writer = threading.Thread(target=self._write_groups, name="feedback-writer", daemon=True)
            self._copying = threading.Thread(target=self._copy_log, args=(path,), name="feedback-log", daemon=True)
            self._must_copy = threading.Event()
        self.closed = False
        self._closing = threading.Lock()
        try:
            if create:
                self._create()
            else:
                self._check_version()
        except sa.exc.OperationalError as error:
            if "locked" in str(error.orig):
                raise FaultError(f"another command writes '{self.location}'; try again when it is done") from error
            fix = "start the database" if self.postgres else "make its folder writable"
            raise FaultError(f"'{self.location}' cannot be opened ({_reason(error)}); {fix}") from error
        if not self.postgres:
            self._writer.start()
            self._copying.start()

    def write(self, request: Request[T]) -> Future[T]:
        """Run a request in a transaction, and return the future of its result, which is there after the commit.

        An exception of the request undoes its changes only, and is raised by the future.
        """
        future: Future[T] = Future()
        with self._closing:  # a request behind the end would wait for ever
            if self.closed:
                raise FaultError(f"the store '{self.location}' is closed; open it again")
            if self.postgres:
                return self._threads.submit(self._write_alone, request)
            self._waiting.put((request, future))
        return future

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Return a connection that sees the last commit, and changes nothing. The writer is never waited for."""
        if self.postgres:
            with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
                yield connection
        else:
            with self._readers.connect() as connection:
                yield connection

    def read(self, request: Request[T]) -> T:
        """Run a request on a snapshot, and return its result."""
        with self.snapshot() as connection:
            return request(connection)

    def close(self) -> None:
        """Finish the waiting requests and close all connections."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            if not self.postgres:
                self._waiting.put(None)
        if self.postgres:
            self._threads.shutdown()
        else:
            self._writer.join()
            self._must_copy.set()
            self._copying.join()
            self._readers.dispose()
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the study ----

    def study(self) -> Study:
        """Return the study whose completions and votes the store holds."""
        row = self.read(lambda c: c.execute(sa.select(tables.study.c.config_json)).scalar_one())
        return from_values(json.loads(row))

    # ---- writing ----

    def _write_groups(self) -> None:
        """Run waiting requests until the store is closed."""
        with self._engine.connect() as connection:
            written = 0
            entry = self._waiting.get()
            while entry is not None:  # None follows the last request
                group = [entry]
                while len(group) < _LARGEST_GROUP and (entry := self._next_waiting()) is not None:
                    group.append(entry)
                self._write_group(connection, group)
                written += len(group)
                if written >= _CHECKPOINT_REQUESTS:
                    written = 0
                    self._must_copy.set()
                entry = self._waiting.get()

    def _next_waiting(self) -> tuple[Request[Any], Future[Any]] | None:
        """Return the next request if one waits. The end of the queue stays in it."""
        try:
            entry = self._waiting.get_nowait()
        except queue.Empty:
            return None
        if entry is None:
            self._waiting.put(None)  # nothing comes behind it
        return entry

    def _copy_log(self, path: Path) -> None:
        """Copy the write-ahead log into the file from time to time, until the store is closed.

        The commit that fills the log would copy it otherwise, and all waiting requests would wait for that.
        """
        with closing(sqlite3.connect(path, timeout=_BUSY_MS / 1000)) as connection:
            while self._must_copy.wait() and not self.closed:
                self._must_copy.clear()
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _write_group(self, connection: sa.Connection, group: list[tuple[Request[Any], Future[Any]]]) -> None:
        """Run requests as savepoints of one transaction, commit it, and answer all of them."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with connection.begin():
                driver: Any = connection.connection.driver_connection
                for request, future in group:
                    if not future.set_running_or_notify_cancel():
                        continue
                    # by the driver, which takes a twentieth of the time of `begin_nested`
                    driver.execute("SAVEPOINT request")
                    try:
                        result = request(connection)
                    except Exception as error:  # of this request alone
                        driver.execute("ROLLBACK TO request")
                        outcomes.append((future, None, error))
                    else:
                        outcomes.append((future, result, None))
                    driver.execute("RELEASE request")
        except BaseException as error:  # the commit failed: nothing of the group is stored
            done = {id(future) for future, _, _ in outcomes}
            outcomes = [(future, None, error) for future, _, _ in outcomes]
            outcomes += [(f, None, error) for _, f in group if id(f) not in done and not f.cancelled()]
            connection.rollback()
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _write_alone(self, request: Request[T]) -> T:
        """Run a request in a transaction of PostgreSQL, and again after a conflict with another one."""
        for attempt in range(_RETRIES):
            try:
                with self._engine.begin() as connection:
                    return request(connection)
            except sa.exc.DBAPIError as error:
                code = getattr(error.orig, "sqlstate", None)
                if code not in _CONFLICTS or attempt == _RETRIES - 1:
                    raise
                time.sleep(random.uniform(0, 0.002 * 2**attempt))
        raise AssertionError("unreachable")

    # ---- opening ----

    def _create(self) -> None:
        from rlalign.feedback.migrations import create_tables

        with self._engine.connect() as connection:
            if sa.inspect(connection).has_table("study"):
                raise UserError(f"'{self.location}' holds a study already; use another database")
            connection.rollback()
            with connection.begin():
                create_tables(connection)

    def _check_version(self) -> None:
        from rlalign.feedback.migrations import check_version

        try:
            check_version(self._engine, self.location)
        except sa.exc.DatabaseError as error:
            if isinstance(error, sa.exc.OperationalError):
                raise
            raise UserError(
                f"'{self.location}' is no store of feedback ({_reason(error)}); use its .db file"
            ) from error


def _check_file(path: Path, *, create: bool) -> None:
    if create and path.exists():
        raise UserError(f"'{path}' exists already; its completions are sampled once: remove it to sample again")
    if create and not path.absolute().parent.is_dir():
        raise UserError(f"the folder of '{path}' does not exist; make it first")
    if not create and path.is_file() and not _is_store(path):
        raise UserError(f"'{path}' is no store of feedback; use the .db file that rlalign feedback sample wrote")
    if not create and not path.is_file():
        raise UserError(f"'{path}' does not exist; make it with rlalign feedback sample study.toml")
    kind = filesystem(path)
    if kind in _NETWORK_DISKS:
        raise UserError(
            f"'{path}' lies on a network disk ({kind}), where SQLite's locks and its write-ahead log are not safe; "
            "use a local disk or a PostgreSQL URL"
        )


def _is_store(path: Path) -> bool:
    """Return True for a file with a study; the file is only read, so that another database stays as it is."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables_of_file = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            has_tables = {"study", "alembic_version"} <= tables_of_file
            return has_tables and connection.execute("SELECT count(*) FROM study").fetchone() == (1,)
    except sqlite3.Error:
        return False


def filesystem(path: Path) -> str:
    """Return the kind of file system that holds a path, such as ext4 or nfs4; empty if the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    except OSError:
        return ""
    place = path.absolute().parent.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        mount = Path(fields[1].replace("\\040", " "))
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), fields[2]
    return kind


def _sqlite_engine(path: Path, *, writes: bool) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=str(path)),
        connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False},
        poolclass=sa.pool.QueuePool,
        pool_size=1 if writes else 8,
        max_overflow=0 if writes else 8,
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        # Python 3.11's sqlite3 begins transactions in its own way; None leaves them to the statements below
        connection.isolation_level = None
        pragmas = ["query_only=ON"]
        if writes:
            pragmas = ["journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", f"wal_autocheckpoint={_LARGEST_LOG}"]
        for pragma in (*pragmas, "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a read that becomes a write cannot wait for the lock: a writer takes it first
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres_engine(location: str) -> sa.Engine:
    from rlalign.registry import import_optional

    import_optional("psycopg", "feedback")
    _, _, rest = location.partition("://")
    return sa.create_engine(f"postgresql+psycopg://{rest}", pool_size=8, max_overflow=8, pool_pre_ping=True)


def _reason(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


def insert_returning_id(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    """Insert a row and return its id."""
    return int(connection.execute(sa.insert(table).values(**values).returning(table.c.id)).scalar_one())


def log_event(
    connection: sa.Connection,
    actor: str,
    what: Literal["create", "invite", "pause", "resume", "revoke", "export", "look", "forget", "withdraw", "erase",
                  "break", "stop", "withdraw item", "judge", "enroll"],
    detail: str = "",
) -> None:  # fmt: skip
    """Store who did what, without personal data."""
    connection.execute(sa.insert(tables.event).values(at=now_ms(), actor=actor, what=what, detail=detail))
