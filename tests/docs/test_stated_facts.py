"""Versions, extras, values of axes and thresholds that written pages state are those of the code."""

from __future__ import annotations

import inspect
import re
import tomllib
import typing
from pathlib import Path

import pytest

import rlalign
from rlalign.log import alarms
from rlalign.objective import spec
from rlalign.objective.registries import BUILT_IN_BASELINES, BUILT_IN_TRUSTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text_of(path: str) -> str:
    """Return a file of the repository on one line."""
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def constrained(package: str) -> str:
    """Return the major and minor version of a package in constraints.txt."""
    (version,) = re.findall(rf"^{package}==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return str(version)


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {rlalign.__version__}\n" in citation
    assert f"version = {{{rlalign.__version__}}}" in text_of("docs/project/citing.md")
    released = f"## {rlalign.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert ("date-released:" in citation) == released, "the date of the release, once there is one"


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/trl.md", "docs/speed.md"])
def test_the_named_version_of_trl_is_the_tested_one(page: str) -> None:
    assert set(re.findall(r"TRL (\d+\.\d+)", text_of(page))) == {constrained("trl")}


def test_the_named_version_of_transformers_is_the_tested_one() -> None:
    assert f"on transformers {constrained('transformers')}" in text_of("docs/concepts/trl.md")


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "get_started.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(project["optional-dependencies"])


def values_of(head: str) -> set[str]:
    """Return the names in the first column of the table of an axis in concepts/objective.md."""
    page = (DOCS / "concepts" / "objective.md").read_text(encoding="utf-8")
    table = page.partition(f"| `{head}` |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))


def literals(cls: type, field: str) -> set[str]:
    """Return the values of a field whose type is a Literal."""
    return set(typing.get_args(typing.get_type_hints(cls)[field]))


def test_the_page_of_the_objective_lists_the_values_of_each_axis() -> None:
    assert values_of("credit.kind") == literals(spec.Credit, "kind")
    assert values_of("baseline") == set(BUILT_IN_BASELINES)
    assert values_of("ratio") == literals(spec.Objective, "ratio")
    assert values_of("trust.kind") == set(BUILT_IN_TRUSTS)
    assert values_of("aggregation") == literals(spec.Objective, "aggregation")
    scales = text_of("docs/concepts/objective.md").partition("**Scale**")[2].partition("## ")[0]
    assert literals(spec.Objective, "scale") <= set(re.findall(r"`(\w+)`", scales))


def test_the_page_of_alarms_has_their_thresholds() -> None:
    page = text_of("docs/concepts/evaluation.md")
    assert "No alarm is raised before the tenth step" in page
    assert alarms._MIN_STEPS == 10
    for alarm, stated, code in (
        ("length", "r > 0.3", "> 0.3"),
        ("length", "nine in ten completions", "> 0.9"),
        ("phrase", "a quarter more than at the start", "> 0.25"),
        ("empty", "more than half of the completions", "> 0.5"),
        ("kl", "more than 3 nats per token", "> 3.0 *"),
    ):
        assert stated in page
        assert code in inspect.getsource(alarms.ALARMS[alarm].active)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/concepts/comparing.md", "docs/tutorials/comparison_for_a_paper.py"]
)
def test_pages_that_promise_repetition_link_to_its_conditions(page: str) -> None:
    assert "runs.md#reproducibility)" in text_of(page)
    table = text_of("docs/concepts/runs.md").partition("## Reproducibility")[2].partition(" ## ")[0]
    for case in ("same machine", "number of threads", "another processor", "another version of torch", "a GPU instead"):
        assert case in table
