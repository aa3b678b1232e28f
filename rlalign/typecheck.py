"""Checks of values against type annotations and ranges, for all settings and arguments."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

from rlalign.errors import UserError, did_you_mean

_HINTS: dict[Any, dict[str, Any]] = {}
_WORDS = {
    int: "an integer",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "no value",
}


def hints_of(cls: Any) -> dict[str, Any]:
    """Return the type annotations of a class's fields."""
    # annotations are stored as texts, and evaluating them takes longer than the checks: each class once
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def check_fields(part: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass, and of the dataclasses in it, against their annotations.

    Args:
        part: the dataclass.
        prefix: text before the names of the fields in messages, such as "learner.".

    Raises:
        UserError: names the first field that does not fit.
    """
    hints = hints_of(type(part))
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{prefix}{f.name}.")
        else:
            checked(hints[f.name], value, prefix + f.name)


def checked(hint: Any, value: Any, name: str) -> Any:
    """Return a value converted to the type of its annotation.

    numpy's numbers become Python's, and an integer becomes a float if the annotation is float. Annotations other than
    bool, int, float, str, Literal, and tuples, mappings and unions of them accept any value.

    Args:
        hint: the annotation.
        value: the value.
        name: of the setting or argument, for the message.

    Raises:
        UserError: the value does not fit. NaN and infinities do not fit float.
    """
    origin = typing.get_origin(hint)
    members = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(hint, value, name)
    if origin is Literal:
        if value not in members:
            raise UserError(f"unknown {name} '{value}'.{did_you_mean(str(value), map(str, members))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _mismatch(name, "a list", value)
        kinds = [members[0]] * len(value) if members[-1] is ... else members
        if len(kinds) != len(value):
            raise _mismatch(name, f"{len(kinds)} entries", value)
        return tuple(checked(kind, v, name) for kind, v in zip(kinds, value, strict=True))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _mismatch(name, "a table", value)
        return {k: checked(members[1], v, f"{name}.{k}") for k, v in value.items()}
    if hint is types.NoneType:
        fits = value is None
    elif hint is int:
        # Python's bool is an integer too, and no setting means it so
        fits = isinstance(value, Integral) and not isinstance(value, bool)
        if fits and not -(2**63) <= value < 2**63:  # tensors and arrays hold no others
            raise UserError(f"{name}: expected an integer of 64 bits, got {value}; use one below 2**63")
    elif hint is float:
        fits = isinstance(value, Real) and value is not True and value is not False and math.isfinite(value)
    elif hint in (str, bool):
        fits = isinstance(value, hint)
    else:
        return value
    if not fits:
        raise _mismatch(name, _WORDS[hint], value)
    return hint(value) if hint in (int, float) else value


def _mismatch(name: str, expected: str, value: Any) -> UserError:
    return UserError(f"{name}: expected {expected}, got {value!r}")


def _first_that_fits(hint: Any, value: Any, name: str) -> Any:
    """Return a value converted to the first member of a union that it fits. The error is that of the last member."""
    members = [m for m in typing.get_args(hint) if m is not types.NoneType]
    if value is None and len(members) < len(typing.get_args(hint)):
        return None
    for member in members[:-1]:
        try:
            return checked(member, value, name)
        except UserError:
            continue
    return checked(members[-1], value, name)


def check_range(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    fix: str = "",
) -> None:
    """Raise UserError unless `value` lies in the interval that the bounds describe.

    Args:
        name: of the setting or argument, for the message.
        value: the number to check; NaN fails each bound.
        least: closed lower bound.
        above: open lower bound.
        most: closed upper bound.
        below: open upper bound.
        fix: the remedy, which ends the message; empty: the numbers to use.
    """
    bounds: list[tuple[str, bool]] = []  # each bound in words, and whether it holds
    if least is not None:
        bounds.append((f"at least {least:g}", value >= least))
    if above is not None:
        bounds.append((f"above {above:g}", value > above))
    if most is not None:
        bounds.append((f"at most {most:g}", value <= most))
    if below is not None:
        bounds.append((f"below {below:g}", value < below))
    if not all(holds for _, holds in bounds):
        interval = " and ".join(words for words, _ in bounds)
        raise UserError(f"{name}: expected {interval}, got {value}; {fix or _usable(least, above, most, below)}")


def _usable(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """Return the numbers to use, from the bounds of a range."""
    low = least if least is not None else above
    high = most if most is not None else below
    if low is not None and high is not None and math.isfinite(high):
        return f"use a number between {low:g} and {high:g}"
    if least is not None:
        return f"use {least:g} or more"
    if most is not None:
        return f"use {most:g} or less"
    return f"use a number above {above:g}" if above is not None else f"use a number below {below:g}"


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as one dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
