"""Command-line arguments that tyro cannot express: settings by dotted name, and flags with an optional value."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

import tyro

from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text, visible

T = TypeVar("T")

_SHORT = {
    "--reward": "--rewards",
    "--as": "--recorded.kind",
    "--advantage": "--objective.advantage",
    "--callback": "--callbacks",
    "--metric": "--metrics",
    "--tracker": "--tracking.trackers",
    "--push": "--tracking.push",
}
"""Short flag -> setting."""
REPEATED = ("rewards", "callbacks", "metrics", "tracking.trackers")
"""Settings whose flag may be repeated, one value each."""


def parse_arguments(cls: type[T], args: Sequence[str], **options: Any) -> T:
    """Return a dataclass of arguments, or print usage or an error and exit, as `tyro.cli` does.

    tyro prints wrong arguments as they are: those with control characters are printed visibly and without colors.

    Args:
        cls: the dataclass.
        args: the arguments of the command.
        options: further arguments of `tyro.cli`.

    Raises:
        SystemExit: after --help, or for wrong arguments.
        UserError: for a value that is none of the choices of its flag.
    """
    _check_choices(cls, args)
    if all(visible(word) == word for word in args):
        parsed: T = tyro.cli(cls, args=list(args), **options)
        return parsed
    output = io.StringIO()
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            parsed = tyro.cli(cls, args=list(args), **options)
    except SystemExit:
        for stream in (output, errors):
            if stream.getvalue():
                print_text(stream.getvalue().rstrip("\n"), to_stderr=stream is errors)
        raise
    return parsed


def _check_choices(cls: type, args: Sequence[str]) -> None:
    """Raise UserError for a value that is none of the choices of its flag; tyro would print all choices in a box."""
    if "--help" in args or "-h" in args:
        return
    known = dict(_choices(cls))
    for i, word in enumerate(args):
        flag, equals, value = word.partition("=")
        choices = known.get(flag.replace("_", "-"))
        if choices is None or (not equals and (i + 1 == len(args) or args[i + 1].startswith("--"))):
            continue
        value = value if equals else args[i + 1]
        if value not in choices:
            choices = [choice for choice in choices if choice != "None"]  # of an optional setting, left out instead
            similar = difflib.get_close_matches(value.casefold(), choices, n=1)
            raise UserError(
                f"{flag}: expected one of {', '.join(choices)}, got '{value}'"
                + (f"; did you mean '{similar[0]}'?" if similar else f"; use {flag} {choices[0]}")
            )


def _choices(cls: type, prefix: str = "--") -> Iterator[tuple[str, list[str]]]:
    """Yield flag, choices of each field of a dataclass and of its groups that has a fixed set of values."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        flag = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            yield from _choices(typing.cast("type", kind), f"{flag}.")
            continue
        kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
        if all(part is type(None) or typing.get_origin(part) is typing.Literal for part in kinds):
            yield flag, [str(choice) for part in kinds for choice in typing.get_args(part) or (None,)]


def split_settings(args: Sequence[str], flags: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the settings of runs, such as `--learner.lr 1e-3` or `--learner.lr=1e-3`, from a command's own flags.

    Args:
        args: the arguments of the command.
        flags: the command's own flags (see `flags_of`).

    Returns:
        The arguments without settings, and setting -> value; those whose flag may be repeated are lists.

    Raises:
        UserError: for a setting without a value.
    """
    own: list[str] = []
    settings: dict[str, Any] = {}
    words = settings_flags(args)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or flag in flags:
            own.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{word} has no value: expected {word} VALUE, a setting of the runs")
            value = words.pop(0)
        name = flag[2:].replace("-", "_")
        settings[name] = [*settings.get(name, []), value] if name in REPEATED else value
    return own, settings


def settings_flags(args: Sequence[str]) -> list[str]:
    """Return the arguments with short and former flags renamed to settings.

    Short ones such as `--reward SPEC`, one per flag; `--model.lora-r N` and `--model.lora-alpha N`, now of
    `model.adapter`.
    """
    parts = (word.partition("=") for word in args)
    return _current_flags([_SHORT.get(flag, flag) + equals + value for flag, equals, value in parts])


def _current_flags(words: list[str]) -> list[str]:
    """Return words with flags of the time before `model.adapter` under their names of today."""
    current: list[str] = []
    i = 0
    while i < len(words):
        flag, equals, value = words[i].partition("=")
        i += 1
        name = flag[2:].replace("-", "_")
        if name not in ("model.lora_r", "model.lora_alpha"):
            current.append(flag + equals + value)
            continue
        if not equals and i < len(words):
            value = words[i]
            i += 1
        from rlalign.config.serialize import current_setting

        key, new = current_setting(name, value)
        current += [f"--{key}", str(new)]
    return current


def optional_value(args: Sequence[str], flag: str, default: str) -> list[str]:
    """Return the arguments with a default value inserted after a flag without one: `--ray` becomes `--ray DEFAULT`."""
    words = list(args)
    for i, word in enumerate(words):
        if word == flag and (i + 1 == len(words) or words[i + 1].startswith("--")):
            return [*words[: i + 1], default, *words[i + 1 :]]
    return words


def flags_of(cls: type) -> set[str]:
    """Return the flags of a dataclass of arguments in all spellings, and `--help`."""
    flags = {"--help"}
    for field in dataclasses.fields(cls):
        for name in (field.name, field.name.replace("_", "-")):
            flags |= {f"--{name}", f"--no-{name}"}
    return flags


def flag_value(args: Sequence[str], flag: str) -> str | None:
    """Return the value of `FLAG VALUE` or `FLAG=VALUE`; None without it."""
    for i, word in enumerate(args):
        if word == flag and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None
