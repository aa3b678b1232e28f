"""Copies of the source tree with one planted error (mutant), and the result of a test on such a copy."""

from __future__ import annotations

import os
import resource
import shutil
import signal
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
_CPU_SECONDS = 60
_SECONDS = 600

Result = Literal["killed", "timeout", "stuck", "survived", "broken"]


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


def result_of(tree: Path, tests: list[str], *, cpu_seconds: int = _CPU_SECONDS, seconds: float = _SECONDS) -> Result:
    """Run tests on a copy of the tree.

    Args:
        tree: the copy.
        tests: node ids.
        cpu_seconds: limit of the CPU time of each process. It ends loops without end, at any load of the machine.
        seconds: limit of the time on the clock. It ends processes that wait for each other.

    Returns:
        killed if a test fails or cannot be imported, timeout if the CPU time is over, stuck if the time on the clock is
        over, survived if all pass, broken if pytest cannot run them.
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

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))

    run = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=limit,
    )  # fmt: skip
    try:
        status = run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)  # with the processes that it waits for
        run.wait()
        return "stuck"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    return {0: "survived", 1: "killed", 2: "killed"}.get(status, "broken")  # type: ignore[return-value]  # a Result


def try_mutant(tree: Path, mutant: Mutant) -> Result:
    """Plant an error in a copy of the tree and run its test."""
    text = (tree / mutant.file).read_text()
    with with_error(tree, mutant.file, text.replace(mutant.old, mutant.new)):
        return result_of(tree, [mutant.test])
