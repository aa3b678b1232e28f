"""The migrations give the tables that the code uses, and an older store is copied first."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from rlalign.errors import FaultError, UserError
from rlalign.feedback import migrations, tables
from rlalign.feedback.progress import votes
from rlalign.feedback.store import Store
from tests.feedback.conftest import Client, build, write_study


def test_all_migrations_give_the_tables_of_the_code(open_study: Callable[..., Store]) -> None:
    store = open_study()
    differences = store.read(lambda c: compare_metadata(MigrationContext.configure(c), tables.metadata))
    assert differences == []


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    build(write_study(tmp_path), tmp_path / "study.db").close()
    connection = sqlite3.connect(tmp_path / "study.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match=r"newer version of rlalign \(schema 9999\)"):
        Store(tmp_path / "study.db")


def test_an_older_store_is_copied_and_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further version is added to a copy of the folder of versions."""
    location = tmp_path / "study.db"
    build(write_study(tmp_path), location).close()
    folder = tmp_path / "versions of later"
    shutil.copytree(Path(migrations.__file__).parent, folder)
    (folder / "versions" / "0003_later.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '0003'\ndown_revision = '0002'\n"
        "def upgrade():\n    op.add_column('study', sa.Column('note', sa.Text(), server_default=''))\n"
    )
    config = migrations._config()
    config.set_main_option("script_location", str(folder))
    monkeypatch.setattr(migrations, "_config", lambda: config)
    with Store(location) as store:
        assert store.read(lambda c: c.execute(sa.text("SELECT note FROM study")).scalar_one()) == ""
        assert store.study().name == "numbers"
    copy = sqlite3.connect(tmp_path / "study.db.0002.backup")
    assert copy.execute("SELECT count(*) FROM item").fetchone() == (6,)
    assert "note" not in [row[1] for row in copy.execute("PRAGMA table_info(study)")]
    copy.close()


def make_first_version(folder: Path) -> Path:
    """Make a store of version 0001: the tables of that version, with the rows of a study with a vote."""
    location = folder / "old.db"
    store = build(write_study(folder), folder / "new.db")
    person = Client(store)
    person.begin()
    person.vote("a")
    store.close()
    config = migrations._config()
    engine = sa.create_engine(f"sqlite:///{location}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    old = sqlite3.connect(location, isolation_level=None)
    old.execute("ATTACH ? AS new", (str(folder / "new.db"),))
    for table in tables.metadata.tables:
        columns = ", ".join(f'"{row[1]}"' for row in old.execute(f"PRAGMA main.table_info({table})"))
        old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    old.execute("UPDATE study SET schema_version = 1")
    old.close()
    return location


def version_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_a_store_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    location = make_first_version(tmp_path)
    with Store(location) as store:
        assert store.read(lambda c: compare_metadata(MigrationContext.configure(c), tables.metadata)) == []
        rows = store.read(lambda c: list(votes(c)))
        assert [row["choice"] for row in rows] == ["a"]
        assert store.read(lambda c: c.execute(sa.select(tables.study.c.schema_version)).scalar_one()) == 2
        person = Client(store)
        person.begin()
        person.vote("b")
        assert store.read(lambda c: len(list(votes(c)))) == 2
    assert version_of(tmp_path / "old.db.0001.backup") == "0001"
    with closing(sqlite3.connect(tmp_path / "old.db.0001.backup")) as copy:
        assert copy.execute("SELECT count(*) FROM vote").fetchone() == (1,)


def test_a_second_process_keeps_the_copy_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process migrates the store between the look at its version and the copy."""
    location = make_first_version(tmp_path)
    walk = ScriptDirectory.walk_revisions

    def later(self: ScriptDirectory, *args: Any) -> Any:
        monkeypatch.setattr(ScriptDirectory, "walk_revisions", walk)
        Store(location).close()
        return walk(self, *args)

    monkeypatch.setattr(ScriptDirectory, "walk_revisions", later)
    Store(location).close()
    copies = [path.name for path in tmp_path.glob("old.db.*")]
    assert copies == ["old.db.0001.backup"]
    assert version_of(tmp_path / copies[0]) == "0001"


@pytest.mark.slow
def test_processes_that_open_an_older_store_at_once_make_one_copy(tmp_path: Path) -> None:
    location = make_first_version(tmp_path)
    code = (
        "import sys; import rlalign.feedback.migrations; from rlalign.feedback.store import Store\n"
        "print('ready', flush=True); sys.stdin.readline(); Store(sys.argv[1]).close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(location)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.glob("old.db.*")] == ["old.db.0001.backup"]
    assert (version_of(tmp_path / "old.db.0001.backup"), version_of(location)) == ("0001", "0002")


def test_an_earlier_copy_stays(tmp_path: Path) -> None:
    location = make_first_version(tmp_path)
    earlier = tmp_path / "old.db.0001.backup"
    earlier.write_bytes(b"earlier")
    Store(location).close()
    assert earlier.read_bytes() == b"earlier"
    assert version_of(tmp_path / "old.db.0001.backup.2") == "0001"


def test_a_failed_migration_leaves_the_older_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = make_first_version(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(FaultError, match=r"old\.db\.0001\.backup' cannot be written \(no space\)"):
        Store(location)
    assert version_of(location) == "0001"
    assert not list(tmp_path.glob("*.backup*"))


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:s3cret@host/d", "postgresql+psycopg://me@host/d?password=s3cret"]
)
def test_the_password_is_no_argument_of_pg_dump(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    calls = []

    def run(arguments: list[str], **options: Any) -> Any:
        calls.append((arguments, options.get("env", {})))
        Path(arguments[arguments.index("-f") + 1]).write_bytes(b"dump")
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    assert migrations.copy_store(sa.create_engine(url), "", "0001") == Path("feedback-0001.dump")
    ((arguments, environment),) = calls
    assert "s3cret" not in " ".join(arguments)
    assert arguments[-1] == "postgresql://me@host/d"
    assert environment["PGPASSWORD"] == "s3cret"
