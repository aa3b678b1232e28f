"""The layout: one-way imports without a cycle, few loose modules, no long file.

`.importlinter` holds the order of the layers, which `lint-imports` checks. The tests here check the rest: cycles within
a layer, through imports inside functions or under TYPE_CHECKING, and sizes.
"""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOOSE_MODULES = 10
LONGEST = 400  # lines of a module
LONGEST_TRAINER = 200


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    files = {}
    for folder in ("rlalign", "envs", "policies", "rewards"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue  # rlalign/envs and the others are links to the folders at the root
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "rlalign" else ("rlalign", *parts)
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules of the package that a module imports anywhere: at its head, in functions, for type checkers."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def cycle_through(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of a directed graph as the list of its nodes, or an empty list."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for target in sorted(graph[node]):
            if cycle := search(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    for node in sorted(graph):
        if cycle := search(node, []):
            return cycle
    return []


def test_no_import_cycle_also_not_behind_a_local_import_or_for_a_type_checker() -> None:
    graph = {name: set(imports(name)) - {name} for name in MODULES}
    assert cycle_through(graph) == []


def test_a_cycle_is_seen() -> None:
    assert cycle_through({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert cycle_through({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_few_modules_are_loose() -> None:
    loose = [path.stem for path in (ROOT / "rlalign").glob("*.py") if path.stem != "__init__"]
    assert len(loose) <= LOOSE_MODULES, sorted(loose)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_is_long(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= (LONGEST_TRAINER - 1 if name == "rlalign.training.trainer" else LONGEST), lines


def test_no_script_of_benchmarks_is_long() -> None:
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "benchmarks").glob("*.py")}
    assert "adapters.py" in lines
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}


def test_the_layers_are_few_exhaustive_and_without_exception() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:layers"]
    assert layers.getboolean("exhaustive")
    stages = layers["layers"].split("\n")
    assert len([stage for stage in stages if stage.strip()]) <= 14
    assert not [section for section in contracts.sections() if "ignore_imports" in contracts[section]]


def test_every_package_says_what_it_holds() -> None:
    for name, path in MODULES.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, name
