"""Runs of tests on a copy of the tree: results, and limits that other work on the machine does not reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.plant import result_of
from tests.mutants.sample import KILLED, table

TESTS = """
import signal

def test_right():
    assert True

def test_wrong():
    assert False

def test_loop():
    while True:
        pass

def test_wait():
    signal.pause()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with tests that pass, fail, and do not end."""
    (tmp_path / "test_any.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:schemathesis\n")  # starts in a third of the time
    return tmp_path


@pytest.mark.parametrize(
    ("test", "result"), [("test_right", "survived"), ("test_wrong", "killed"), ("test_none", "broken")]
)
def test_the_result_is_that_of_the_tests(tree: Path, test: str, result: str) -> None:
    assert result_of(tree, [f"test_any.py::{test}"]) == result


def test_a_loop_without_end_is_over_after_its_cpu_time(tree: Path) -> None:
    assert result_of(tree, ["test_any.py::test_loop"], cpu_seconds=4) == "timeout"


def test_a_wait_takes_no_cpu_time_and_ends_by_the_clock(tree: Path) -> None:
    """As a process that gets no CPU time does: it is not over after the seconds that a loop has."""
    assert result_of(tree, ["test_any.py::test_wait"], cpu_seconds=4, seconds=5) == "stuck"


def test_mutants_that_end_by_a_limit_are_killed_and_counted_apart() -> None:
    results = {f"rlalign/objective/a.py:{i}": r for i, r in enumerate(("killed", "timeout", "stuck", "survived"))}
    assert table(results)["all"] | {"interval": None} == {
        "mutants": 4, "killed": 3, "timeouts": 2, "equivalent": 0, "lives": 1, "share": 0.75, "interval": None,
    }  # fmt: skip
    assert set(KILLED) == {"killed", "timeout", "stuck"}
