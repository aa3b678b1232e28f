"""Errors that were planted once and that no test saw. Each is planted again, and its test must fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.plant import ROOT, Mutant, copy_tree, planted, result_of, try_mutant

MUTANTS = planted()
SAMPLE = ("the interval of Newcombe has N and not N - 1", "a reward at the bound is positive")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources."""
    return copy_tree(tmp_path_factory.mktemp("mutants") / "tree")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_text_of_each_planted_error_occurs_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new


def _parameters() -> list[object]:
    slow = pytest.mark.slow
    return [pytest.param(m, id=m.name, marks=() if m.name in SAMPLE else (slow,)) for m in MUTANTS]


@pytest.mark.parametrize("mutant", _parameters())
def test_the_planted_error_fails_its_test(mutant: Mutant, tree: Path) -> None:
    assert try_mutant(tree, mutant) == "killed"


@pytest.mark.slow
def test_the_tests_pass_on_the_copy(tree: Path) -> None:
    """Otherwise they could fail for a reason of the copy."""
    assert result_of(tree, sorted({m.test for m in MUTANTS}), cpu_seconds=600, seconds=3600) == "survived"
