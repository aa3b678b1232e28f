"""Tests of docs/environments.md: it lists all built-in environments and their measurements."""

import importlib
import sys
from pathlib import Path

import pytest

from rlalign.registry import ENVS, import_optional

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch):
    """Return benchmarks/environments.py as a module; its imports are relative to its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("environments")
    for name in ("environments", "machine", "pages"):
        sys.modules.pop(name, None)


def test_page_lists_every_environment_in_both_tables():
    rows = [line.split(" | ")[0].removeprefix("| ").split(":")[0] for line in PAGE.splitlines()]
    names = [name.removeprefix("rlalign/").removesuffix("-v0") for name in ENVS if name.startswith("rlalign/")]
    missing = {name for name in names if not {name, f"**{name}**"} <= {*rows}}
    assert not missing, "run: python benchmarks/environments.py"


def test_environment_with_a_missing_package_keeps_its_row(script, monkeypatch):
    def make_mdp(name):
        import_optional("no_such_package", "textworld")

    monkeypatch.setattr(script, "make_mdp", make_mdp)
    table = PAGE.split("<!-- registry:")[1].split("-->\n")[1].split("\n<!--")[0]
    assert script.registry_table(PAGE) == table
