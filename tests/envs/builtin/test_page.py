"""docs/environments.md names every built-in environment twice: what it is, and what a small policy learns in it."""

import importlib
import sys
from pathlib import Path

import pytest

from rlalign.errors import MissingExtraError
from rlalign.registry import ENVS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch):
    """benchmarks/environments.py, as it is imported beside its neighbours."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("environments")
    for name in ("environments", "machine", "pages"):
        sys.modules.pop(name, None)


def test_every_environment_is_on_the_page():
    rows = [line.split(" | ")[0].removeprefix("| ").split(":")[0] for line in PAGE.splitlines()]
    names = [name.removeprefix("rlalign/").removesuffix("-v0") for name in ENVS if name.startswith("rlalign/")]
    missing = {name for name in names if not {name, f"**{name}**"} <= {*rows}}
    assert not missing, "run: python benchmarks/environments.py"


def test_a_package_that_is_missing_costs_no_row(script, monkeypatch):
    def nothing_is_here(name):
        raise MissingExtraError(name, "textworld", "textworld")

    monkeypatch.setattr(script, "make_mdp", nothing_is_here)
    stands = PAGE.split("<!-- what:")[1].split("-->\n")[1].split("\n<!--")[0]
    assert script.environment_table(PAGE) == stands
