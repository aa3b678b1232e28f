"""Every setting and every flag of a command has a description, which is the text of --help and of the documentation."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from rlalign import cli
from rlalign.config.schema import TrainConfig
from rlalign.typecheck import hints_of


def sections(cls: Any) -> Iterator[Any]:
    """Yield a dataclass and the dataclasses in its fields."""
    yield cls
    for hint in hints_of(cls).values():
        if dataclasses.is_dataclass(hint):
            yield from sections(hint)


def commands() -> Iterator[Any]:
    """Yield the arguments of each command that has arguments of its own."""
    for module in pkgutil.iter_modules(cli.__path__):
        found = importlib.import_module(f"rlalign.cli.{module.name}")
        yield from getattr(found, "ARGUMENTS", {}).values()  # of subcommands
        if hasattr(found, "Args"):
            yield found.Args


def descriptions(cls: Any) -> dict[str, str]:
    """Return field -> the string below it, or an empty text."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    texts = {}
    for field, following in itertools.pairwise([*node.body, ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = following.value.value if isinstance(following, ast.Expr) else ""  # type: ignore[attr-defined]
            texts[field.target.id] = " ".join(text.split())
    return texts


def literals(hint: Any) -> list[str]:
    """Return the values of the Literal in an annotation."""
    if typing.get_origin(hint) is Literal:
        return [str(value) for value in typing.get_args(hint)]
    return [value for member in typing.get_args(hint) for value in literals(member)]


def faults(cls: Any) -> dict[str, str]:
    """Return field -> what its description lacks."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for name, text in descriptions(cls).items():
        words = {*re.findall(r"\w+", text), *re.findall(r"[\w-]+", text)}
        missing = [value for value in literals(hints[name]) if value not in words]
        if not text.endswith("."):
            found[name] = "a sentence"
        elif missing:
            found[name] = f"the values {', '.join(missing)}"
        elif type(None) in typing.get_args(hints[name]) and "None" not in words:
            found[name] = "the meaning of None"
    return found


@pytest.mark.parametrize("section", list(sections(TrainConfig)), ids=lambda cls: cls.__name__)
def test_every_setting_has_a_description_that_names_its_values(section):
    assert set(descriptions(section)) == {field.name for field in dataclasses.fields(section)}
    assert not faults(section)


@pytest.mark.parametrize("arguments", list(commands()), ids=lambda cls: cls.__module__)
def test_every_flag_has_a_description_that_names_its_values(arguments):
    assert set(descriptions(arguments)) == {field.name for field in dataclasses.fields(arguments)}
    assert not faults(arguments)


def test_all_commands_and_settings_are_read():
    modules = {arguments.__module__.removeprefix("rlalign.cli.") for arguments in commands()}
    # a subcommand of feedback has a module of its own
    assert {"feedback" if name.startswith("feedback_") else name for name in modules} == {
        cli._MODULES.get(name, name) for name in cli.COMMANDS
    } - {"train", "doctor"}  # train has the settings as its flags, doctor has no flags
    assert len(list(sections(TrainConfig))) == 21


def test_a_missing_description_is_found():
    assert faults(Incomplete) == {
        "bare": "a sentence",
        "mode": "the values slow",
        "limit": "the meaning of None",
    }


@dataclasses.dataclass
class Incomplete:
    bare: int = 0
    mode: Literal["fast", "slow"] = "fast"
    """How it works; fast: without checks."""
    limit: int | None = None
    """Largest number."""
    fine: int | None = None
    """Largest number; None: no limit."""
