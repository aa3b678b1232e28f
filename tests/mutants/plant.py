"""Copies of the source tree with one planted error (mutant), and the result of a test on such a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).with_name("planted.toml")
_COPIED = ("rlalign", "envs", "policies", "rewards", "tests", "benchmarks", "pyproject.toml", "README.md")
_SECONDS = 60

Result = Literal["killed", "timeout", "survived", "broken"]


@dataclass(frozen=True)
class Mutant:
    """A planted error.

    Attributes:
        name: what is wrong.
        file: path below the root.
        old: text of the file, which occurs once.
        new: text in its place.
        test: node id of a test that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


def planted() -> list[Mutant]:
    """Return the mutants of planted.toml."""
    return [Mutant(**entry) for entry in tomllib.loads(PLANTED.read_text())["mutant"]]


def copy_tree(folder: Path) -> Path:
    """Copy the sources and tests to a new folder, symlinks included, and return it."""
    folder.mkdir()
    for name in _COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@contextmanager
def with_error(tree: Path, file: str, text: str) -> Iterator[None]:
    """Replace the text of a file of the copy within the block."""
    path = tree / file
    original = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(original)


def result_of(tree: Path, tests: list[str], seconds: float = _SECONDS) -> Result:
    """Run tests on a copy of the tree.

    Returns:
        killed if a test fails or cannot be imported, timeout if the time is over, survived if all pass, broken if
        pytest cannot run them.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),  # in front of an editable installation
        "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file can have one size and one second
        "RLALIGN_HOME": str(tree / "home"),  # no verdict that was stored for the correct code
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    shutil.rmtree(tree / "home", ignore_errors=True)
    try:
        run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "timeout"
    return {0: "survived", 1: "killed", 2: "killed"}.get(run.returncode, "broken")  # type: ignore[return-value]  # a Result


def try_mutant(tree: Path, mutant: Mutant) -> Result:
    """Plant an error in a copy of the tree and run its test."""
    text = (tree / mutant.file).read_text()
    with with_error(tree, mutant.file, text.replace(mutant.old, mutant.new)):
        return result_of(tree, [mutant.test])
