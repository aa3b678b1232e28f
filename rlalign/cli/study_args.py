"""Command lines of studies, as far as tyro cannot say them: settings by dotted name, flags with or without a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from rlalign.errors import UserError


def split_settings(args: Sequence[str], known: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(what is left, settings): `--learner.lr 1e-3` and `--learner.lr=1e-3` go apart from the flags that are known."""
    left, settings, words = [], {}, settings_flags(args)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or flag in known:
            left.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{word} has no value: a setting of the runs is given as {word} VALUE")
            value = words.pop(0)
        settings[flag[2:].replace("-", "_")] = value
    return left, settings


def settings_flags(args: Sequence[str]) -> list[str]:
    """Return the arguments with `--reward SPEC`, one reward per flag, as the setting's own name, `--rewards`."""
    return ["--rewards" + word[len("--reward") :] if word.partition("=")[0] == "--reward" else word for word in args]


def optional_value(args: Sequence[str], flag: str, default: str) -> list[str]:
    """`--ray` alone stands for `--ray DEFAULT`."""
    found = list(args)
    for i, word in enumerate(found):
        if word == flag and (i + 1 == len(found) or found[i + 1].startswith("--")):
            return [*found[: i + 1], default, *found[i + 1 :]]
    return found


def flags_of(cls: type) -> set[str]:
    """The flags of a dataclass of arguments, and those that every command has."""
    names = {name for f in dataclasses.fields(cls) for name in (f.name, f.name.replace("_", "-"))}
    return {"--help", *(f"--{n}" for n in names), *(f"--no-{n}" for n in names)}
