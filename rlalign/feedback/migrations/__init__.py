"""The versions of the schema: a new store has the newest one, an older store is copied and then migrated (alembic)."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from rlalign.errors import FaultError, UserError

_LOCK = 0x726C616C69676E  # "rlalign" in ASCII
"""PostgreSQL's advisory lock of a migration."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def newest() -> str:
    """Return the newest version."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def create_tables(connection: sa.Connection) -> None:
    """Create all tables and triggers in an empty database, by all versions in order."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_version(engine: sa.Engine, location: str) -> None:
    """Migrate a store of an older version, after it was copied.

    Several processes may open the store at the same time: one of them copies and migrates it, and the others wait.

    Raises:
        UserError: the database is no store, or its version is newer than this library.
        FaultError: a copy could not be made.
    """
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == newest():
        return
    if current is None:
        raise UserError(f"'{location}' is no store of feedback; make one with rlalign feedback sample study.toml")
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current not in known:
        raise UserError(f"'{location}' was written by a newer version of rlalign (schema {current}); update rlalign")
    config = _config()
    # a transaction of SQLite begins with the lock of the one writer
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        version = MigrationContext.configure(connection).get_current_revision()
        if version != current:  # another process migrated the store, and its copy is the one of the older version
            return
        copy_store(engine, location, current)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def copy_store(engine: sa.Engine, location: str, suffix: str) -> Path | None:
    """Copy a store beside itself: by VACUUM INTO, or by pg_dump where it is installed.

    A copy of an SQLite file alone would lack the write-ahead log. The copy has its name once it is complete. An
    earlier copy stays: the next one is `study.db.0001.backup.2`.

    Args:
        engine: of the store, in which a transaction may be open.
        location: path of an SQLite file.
        suffix: the version, a part of the name of the copy.

    Returns:
        The copy; None for PostgreSQL without pg_dump.

    Raises:
        FaultError: the copy cannot be written.
    """
    if engine.dialect.name != "postgresql":
        return _written(Path(f"{location}.{suffix}.backup"), lambda path: _vacuum(location, path))
    program = shutil.which("pg_dump")
    if program is None:
        return None
    return _written(Path(f"feedback-{suffix}.dump"), lambda path: _dump(program, engine.url, path))


def _written(target: Path, write: Callable[[Path], None]) -> Path:
    """Write a copy under a temporary name, rename it to the first free name, and return that."""
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed: the lock excludes a living one
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        names = itertools.chain([target], (target.with_name(f"{target.name}.{i}") for i in itertools.count(2)))
        copy = next(name for name in names if not name.exists())
        os.replace(temporary, copy)
    except (OSError, sqlite3.Error) as error:
        raise FaultError(f"'{target}' cannot be written ({error}); free space, then try again") from error
    finally:
        temporary.unlink(missing_ok=True)
    return copy


def _vacuum(location: str, path: Path) -> None:
    # on a connection of its own: VACUUM is not possible inside the transaction that holds the lock
    with closing(sqlite3.connect(location)) as connection:
        connection.execute("VACUUM INTO ?", (str(path),))


def _dump(program: str, url: sa.URL, path: Path) -> None:
    """Run pg_dump. It gets the password by the environment, since every user of the machine sees its arguments."""
    in_query = url.query.get("password")
    password = url.password or (in_query if isinstance(in_query, str) else None)
    shown = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    shown = shown.difference_update_query(["password"])
    environment = os.environ if password is None else {**os.environ, "PGPASSWORD": str(password)}
    done = subprocess.run(
        [program, "-Fc", "-f", str(path), shown.render_as_string(hide_password=False)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FaultError(f"pg_dump failed ({lines[-1]}); mend it, then try again")
