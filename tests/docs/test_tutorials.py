"""Each tutorial runs as a script from an empty directory, and leaves it and the repository as they were."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
WRITTEN = {"_build", "__pycache__", "jupyter_execute"}


def listing() -> set[tuple[str, int, float]]:
    """Return path, size and time of change of each file of docs/, without what builds and imports write."""
    files = [path for path in (ROOT / "docs").rglob("*") if path.is_file() and not WRITTEN & set(path.parts)]
    return {(str(path), path.stat().st_size, path.stat().st_mtime) for path in files}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a temporary folder with a short path: the socket of a study's processes stands in it, which takes 107
    characters at most, and pytest's own folders are longer."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


SAMPLE = "read_votes"
"""The tutorial that each run of the tests executes. .ci/run executes all of them in the site, .ci/slow as scripts."""


@pytest.mark.parametrize(
    "tutorial",
    [pytest.param(path, id=path.stem, marks=() if path.stem == SAMPLE else (pytest.mark.slow,)) for path in TUTORIALS],
)
def test_the_script_runs_and_writes_to_a_temporary_folder_alone(
    tutorial: Path, tmp_path: Path, short_folder: Path
) -> None:
    before = listing()
    empty = tmp_path / "empty"
    temporary = short_folder
    empty.mkdir()
    variables = {**os.environ, "TMPDIR": str(temporary), "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, str(tutorial)], cwd=empty, env=variables, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not list(empty.iterdir())
    text = tutorial.read_text(encoding="utf-8")
    assert "All files are written to a new temporary folder" in " ".join(text.replace("\n#", " ").split())
    named = set(re.findall(r'FOLDER / "([\w.-]+)"', text))
    written = [{path.name for path in folder.iterdir()} for folder in temporary.iterdir() if folder.is_dir()]
    assert any(names and named <= names for names in written), "the folder that the text names"
    assert listing() == before


def test_the_index_lists_every_tutorial() -> None:
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8").splitlines()
    assert TUTORIALS
    assert {path.stem for path in TUTORIALS} <= {line.strip() for line in index}
