"""Checks of the arguments that the built-in environments share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_range


def resolve_source(env: str, source: Any, builders: Mapping[str, Callable[[], Any]]) -> Any:
    """Return the task source that a bare name refers to.

    Args:
        env: name of the environment, for the message.
        source: the argument `source`. Anything but a bare name (records, a file, `hf:`, `wheel:`) is returned
            unchanged.
        builders: bare name -> function that builds the source.

    Raises:
        UserError: `builders` has no such name.
    """
    # A file has a dot or a slash, and `hf:` and `wheel:` have a colon: a text without these signs is a bare name.
    if not isinstance(source, str) or re.search(r"[.:/]", source):
        return source
    if source not in builders:
        raise UserError(
            f"{env}: unknown source '{source}'; use {', '.join(builders)}, a data file or hf:org/name."
            f"{did_you_mean(source, builders)}"
        )
    return builders[source]()


def check_choice(env: str, name: str, value: Any, choices: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return the value of an argument if it is one of the choices.

    Raises:
        UserError: the value is not among the choices.
    """
    if value not in choices:
        raise UserError(f"{env}: unknown {name} '{value}'.{did_you_mean(str(value), choices)}")
    return str(value)


def check_integer(name: str, value: int, least: int, most: int) -> int:
    """Return the value of an argument if it is an integer in [least, most].

    Raises:
        UserError: the value is not an integer, or lies outside the interval.
    """
    if not isinstance(value, int):
        raise UserError(f"{name}: expected an integer from {least} to {most}, got {value!r}")
    check_range(name, value, least=least, most=most)
    return value


def check_several_turns(env: str, max_turns: int) -> None:
    """Raise UserError unless a multi-turn environment has at least two turns.

    With one turn the episode would end before the policy could act on an environment message.
    """
    check_range(f"{env} max_turns", max_turns, least=2, fix="use two turns or more, so that the policy sees a reply")
