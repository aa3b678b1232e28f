"""The migrations give the tables that the code uses, and an older store is copied first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from rlalign.errors import UserError
from rlalign.feedback import migrations, tables
from rlalign.feedback.store import Store
from tests.feedback.conftest import build, write_study


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
    import shutil

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
