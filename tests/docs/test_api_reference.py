"""The API reference lists every public name; docstrings describe every parameter in Google sections; examples run."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference" / "api").glob("*.md"))
PACKAGES = (
    "rlalign",
    "rlalign.rewards",
    "rlalign.objective",
    "rlalign.compare",
    "rlalign.oracle",
    "rlalign.checks",
    "rlalign.integrations.trl",
    "rlalign.reward_models",
)
NOT_IN_A_CALL = {"self", "cls"}


def listed(page: Path) -> list[str]:
    """Return the dotted names of the objects that a page documents."""
    names = []
    module = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        elif match := re.match(r"\.\. auto(?:function|class|data):: (\S+)", line):
            names.append(f"{module}.{match[1]}")
    return names


def find(name: str) -> Any:
    """Return the object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def described(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    """Yield an object and the public methods that its class defines."""
    yield name, item
    if inspect.isclass(item):
        for attribute, value in vars(item).items():
            function = getattr(value, "__func__", value)
            if inspect.isfunction(function) and not attribute.startswith("_"):
                yield f"{name}.{attribute}", function


def parameters(item: Any) -> list[str]:
    """Return the parameters of a function or of a class's constructor."""
    if inspect.isclass(item) and ("__init__" not in vars(item) or getattr(item, "_is_protocol", False)):
        return []
    signature = inspect.signature(item.__init__ if inspect.isclass(item) else item)
    return [p.name for p in signature.parameters.values() if p.name not in NOT_IN_A_CALL and not p.name.startswith("_")]


def undescribed(item: Any) -> list[str]:
    """Return the parameters without a description.

    A parameter is described in the section Args or Attributes, or, for the field of a dataclass, by the string below
    it. A function with a single parameter needs no section: its first sentence says what it does with it.
    """
    names = parameters(item)
    if len(names) < 2:
        return []
    docstring = inspect.getdoc(item) or ""
    found = set()
    for section in re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", docstring, flags=re.MULTILINE | re.DOTALL):
        for head in re.findall(r"^    ([*\w, ]+?)(?: \([^)]*\))?:", section, flags=re.MULTILINE):
            found |= {word.strip().lstrip("*") for word in head.split(",")}
    if dataclasses.is_dataclass(item):
        found |= documented_fields(item)
    return [name for name in names if name not in found]


def documented_fields(cls: Any) -> set[str]:
    """Return the fields of a dataclass that are followed by a string."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    fields = set()
    for field, following in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(field.target, ast.Name)
            fields.add(field.target.id)
    return fields


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_parameter_is_described(page: Path) -> None:
    missing = {
        label: names
        for name in listed(page)
        for label, item in described(name, find(name))
        if (names := undescribed(item))
    }
    assert not missing, "\n".join(f"{label}: {', '.join(names)}" for label, names in missing.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_object_has_a_docstring(page: Path) -> None:
    bare = [label for name in listed(page) for label, item in described(name, find(name)) if not inspect.getdoc(item)]
    assert not bare


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_attribute_has_a_line_of_its_own(page: Path) -> None:
    """napoleon reads `low, high: text` below Attributes as a type and a name."""
    grouped = []
    for name in listed(page):
        docstring = inspect.getdoc(find(name)) or ""
        section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
        heads = re.findall(r"^    \w+, [\w, ]+:", section[1] if section else "", flags=re.MULTILINE)
        grouped += [f"{name}: {head.strip()}" for head in heads]
    assert not grouped


def test_every_public_name_is_listed() -> None:
    documented = {id(find(name)) for page in PAGES for name in listed(page)}
    public = {f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__}
    # registries are data, described by the decorators that fill them
    public -= {
        "rlalign.__version__",
        *(f"rlalign.objective.{name}" for name in ("BASELINES", "TRUSTS", "LOSSES", "ADVANTAGES")),
    }
    assert not {name for name in public if id(find(name)) not in documented}


def test_no_object_is_listed_twice() -> None:
    names = [name for page in PAGES for name in listed(page)]
    assert sorted(names) == sorted(set(names))


def with_examples() -> list[str]:
    """Return the modules of the package whose source contains an example."""
    folders = {"rlalign": ROOT / "rlalign"} | {
        f"rlalign.{name}": ROOT / name for name in ("envs", "policies", "rewards")
    }  # in rlalign/ these three are links, which rglob does not follow
    modules = set()
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            if ">>> " in path.read_text(encoding="utf-8"):
                name = ".".join([package, *path.relative_to(folder).with_suffix("").parts])
                modules.add(name.removesuffix(".__init__"))
    return sorted(modules)


@pytest.mark.parametrize("module", with_examples())
def test_the_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0


def test_many_modules_have_examples() -> None:
    assert len(with_examples()) >= 40


def test_the_check_finds_a_parameter_without_description() -> None:
    def f(a: int, b: int) -> None:
        """Do nothing.

        Args:
            a: a number.
        """

    assert undescribed(f) == ["b"]
