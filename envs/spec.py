"""Environment specs: parsed once to an `EnvSpec`, resolved to a class or an instance, and built.

make_mdp("reverse?max_length=6")
    EnvSpec.parse      -> EnvSpec(target="reverse", arguments={"max_length": 6})
    EnvSpec.resolve    -> the class Reverse
    build              -> Reverse(max_length=6), after a check of every argument
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlalign.envs.longest_prompt import LongestPrompt
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import is_data, split_query
from rlalign.errors import UnknownNameError, UserError, did_you_mean
from rlalign.registry import ENVS, load
from rlalign.typecheck import checked
from rlalign.types import TaskSource

# Arguments that a TextMDP which is built already still takes.
_LIMITS = {"max_prompt", "max_new", "max_turns", "max_reply"}
# Options of a data spec that belong to the environment; the task source reads the others.
_OF_DATA = ("tokenizer", "max_prompt", "max_new")


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """A parsed environment spec.

    Attributes:
        target: a name (`rlalign/Reverse-v0`, `reverse`, `module:Class`, `file.py:Class`), a data spec, a TextMDP class,
            a TextMDP, or data.
        arguments: arguments that the text of the spec gives: `max_length=6` in `reverse?max_length=6`, `max_new=3` in
            `data.csv?prompt=question&max_new=3`.
    """

    target: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, env: Any) -> EnvSpec:
        """Return the parsed spec. Imports nothing and reads no data.

        Raises:
            UserError: a part after `?` has no `=`.
        """
        if not isinstance(env, str):
            return cls(env)
        name, options = split_query(env)
        if not is_data(env):
            return cls(name, {key: _literal(value) for key, value in options.items()})
        arguments = {key: _literal(options.pop(key)) for key in _OF_DATA if key in options}
        # The task source parses its own options.
        query = "&".join(f"{key}={quote(value)}" for key, value in options.items())
        return cls(f"{name}?{query}" if query else name, arguments)

    def resolve(self) -> type[TextMDP] | TextMDP:
        """Return the class or the TextMDP that the target names. Builds nothing and reads no data.

        Raises:
            UnknownNameError: the name is not registered.
            UserError: the target is not an environment, or a short name is ambiguous.
        """
        target = self.target
        if isinstance(target, str) and not is_data(target):
            target = _load(target)
        if isinstance(target, TextMDP) or (isinstance(target, type) and issubclass(target, TextMDP)):
            return target
        # a task source may be callable too; any other callable object is a reward or a factory
        if isinstance(target, type) or (callable(target) and not isinstance(target, TaskSource)):
            raise UserError(f"expected an environment, got {target!r}; use a subclass of rlalign.TextMDP")
        # Anything else is data: a class is made for it, whose source reads the data once it is built.
        name = target if isinstance(target, str) else type(target).__name__
        body = {"id": name, "source": target, "max_prompt": LongestPrompt(), "__doc__": f"Prompts of {name}."}
        return type("Data", (TextMDP,), body)


def find_env(env: Any) -> type[TextMDP] | TextMDP:
    """Return the class or the TextMDP that a spec names (see `rlalign.make_mdp`). Builds nothing and reads no data.

    Raises:
        UnknownNameError: the name is not registered.
        UserError: the spec does not name an environment.
    """
    return EnvSpec.parse(env).resolve()


def env_id(spec: str) -> str:
    """Return a spec with the full id of its registered environment; other specs are returned unchanged.

    `reverse?max_length=6` becomes `rlalign/Reverse-v0?max_length=6`. Imports no environment.
    """
    name = EnvSpec.parse(spec).target
    ids = _ids_of(name)
    return ids[0] + spec[len(name) :] if len(ids) == 1 else spec


def is_registered(name: str) -> bool:
    """Return whether a name is a registered id or the short form of one. Imports no environment."""
    return bool(_ids_of(name))


def build(target: type[TextMDP] | TextMDP, arguments: Mapping[str, Any], tokenizer: Any = None) -> TextMDP:
    """Return an instance of a class, or a copy of a TextMDP with other limits.

    Args:
        target: what `EnvSpec.resolve` returns.
        arguments: of the class's constructor; limits of a TextMDP.
        tokenizer: replaces the environment's own.

    Raises:
        UserError: an argument is unknown, or its value does not match its annotation.
    """
    if isinstance(target, TextMDP):
        if others := arguments.keys() - _LIMITS:
            raise UserError(
                f"{target.id} is built already: expected only limits, got '{min(others)}'; use it with the class"
            )
        mdp = target.with_limits(**arguments)
        return mdp if tokenizer is None else mdp.with_tokenizer(tokenizer)
    if tokenizer is not None:
        arguments = {**arguments, "tokenizer": tokenizer}
    return target(**_checked_arguments(target, arguments))


def _literal(text: str) -> int | float | bool | str:
    """Return the number or the boolean that a text spells, else the text itself."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _load(name: str) -> Any:
    """Return the object of a registered id, of its short form, or of `module:attr`."""
    if name in ENVS:
        return ENVS.get(name)
    if ":" in name:
        return load(name)
    if Path(name).suffix:
        raise UserError(
            f"expected an environment, got the file '{name}'; use {name}:Class, or a data file that ends in .jsonl, "
            ".csv or .parquet"
        )
    ids = _ids_of(name)
    if not ids:
        raise UnknownNameError("environment", name, ENVS)
    if len(ids) > 1:
        raise UserError(f"environment '{name}': expected one id, got the short form of {' and '.join(ids)}; use one")
    return ENVS.get(ids[0])


def _ids_of(name: str) -> list[str]:
    """Return the registered ids that a name may stand for.

    Short forms leave out the namespace, the version or both, and ignore case and underscores: the file name
    `guess_number` is short for `rlalign/GuessNumber-v0`.
    """
    if name in ENVS:
        return [name]
    short = name.casefold().replace("_", "")
    ids = []
    for registered in ENVS:
        full = registered.casefold()
        unversioned = re.sub(r"-v\d+$", "", full)
        if short in (full, full.rpartition("/")[2], unversioned, unversioned.rpartition("/")[2]):
            ids.append(registered)
    return ids


def _checked_arguments(cls: type[TextMDP], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments converted to their annotations. Raises UserError for an unknown or a wrong one."""
    annotations = _annotations(cls)
    inherited = _annotations(TextMDP)
    name = cls.label()
    values: dict[str, Any] = {}
    for argument, value in arguments.items():
        if argument not in annotations and argument in inherited:
            raise UserError(
                f"{name} has no argument '{argument}': its __init__ must take **kwargs and hand them to "
                "super().__init__"
            )
        if argument not in annotations:
            raise UserError(f"{name} has no argument '{argument}'.{did_you_mean(argument, annotations)}")
        values[argument] = checked(annotations[argument], value, f"{argument} of {name}")
    return values


def _annotations(cls: type[TextMDP]) -> dict[str, Any]:
    """Return argument names -> annotations of a constructor, including those it passes on as **kwargs to its bases."""
    annotations: dict[str, Any] = {}
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        init = vars(ancestor)["__init__"]
        parameters = list(inspect.signature(init).parameters.values())[1:]  # without self
        hints = _hints(init)
        # A subclass's annotation of the same name wins, so the ones collected so far come last.
        annotations = {p.name: hints.get(p.name) for p in parameters if p.kind is not p.VAR_KEYWORD} | annotations
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # arguments of further bases cannot be passed
    return annotations


def _hints(function: Any) -> dict[str, Any]:
    """Return the type hints of a function, or none if they name types that exist for type checkers only."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}
