"""The versions of the schema: a new store has the newest one, an older store is copied and then migrated (alembic)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from rlalign.errors import FaultError, UserError


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
    copy_store(engine, location, current)
    config = _config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def copy_store(engine: sa.Engine, location: str, suffix: str) -> Path | None:
    """Copy a store beside itself: by VACUUM INTO, or by pg_dump where it is installed.

    A copy of an SQLite file alone would lack the write-ahead log.

    Returns:
        The copy; None for PostgreSQL without pg_dump.
    """
    if engine.dialect.name != "postgresql":
        target = Path(f"{location}.{suffix}.backup")
        target.unlink(missing_ok=True)
        # VACUUM is not possible inside a transaction
        connection = engine.raw_connection()
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except Exception as error:
            raise FaultError(f"'{target}' cannot be written ({error}); free space, then try again") from error
        finally:
            connection.close()
        return target
    program = shutil.which("pg_dump")
    if program is None:
        return None
    target = Path(f"feedback-{suffix}.dump")
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run([program, "-Fc", "-f", str(target), url], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FaultError(f"pg_dump failed ({done.stderr.strip().splitlines()[-1]}); mend it, then try again")
    return target
