"""Values against the annotations of the fields or arguments they are meant for: one check for every setting."""

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
_WORDS = {int: "an integer", float: "a number (NaN and infinity are none)", str: "a text", bool: "true or false"}


def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of a class's fields. They are texts, and reading them takes longer than the checks."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def check_fields(part: Any, where: str = "") -> None:
    """Refuse a dataclass with a field, here or in a part of it, that is not what its annotation says: UserError."""
    hints = hints_of(type(part))
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{where}{f.name}.")
        else:
            checked(hints[f.name], value, where + f.name)


def checked(hint: Any, value: Any, name: str) -> Any:
    """The value as its annotation has it: numbers of numpy become Python's, an integer a float where one is asked for.

    Annotations other than bool, int, float, str, Literal, and tuples, mappings and unions of them take anything. Raises
    UserError for what does not fit, NaN and infinities among it.
    """
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(hint, value, name)
    if origin is Literal:
        if value not in members:
            raise UserError(f"unknown {name} '{value}'.{did_you_mean(str(value), map(str, members))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"{name} is {value!r}: it must be a list")
        kinds = [members[0]] * len(value) if members[-1] is ... else members
        if len(kinds) != len(value):
            raise UserError(f"{name} is {value!r}: it must have {len(kinds)} entries")
        return tuple(checked(kind, v, name) for kind, v in zip(kinds, value, strict=True))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is {value!r}: it must be a table")
        return {k: checked(members[1], v, f"{name}.{k}") for k, v in value.items()}
    if hint is types.NoneType:
        fits = value is None
    elif hint is int:
        fits = isinstance(value, Integral) and not isinstance(value, bool)
    elif hint is float:
        fits = isinstance(value, Real) and value is not True and value is not False and math.isfinite(value)
    elif hint in (str, bool):
        fits = isinstance(value, hint)
    else:
        return value
    if not fits:
        raise UserError(f"{name} is {value!r}: it must be {_WORDS.get(hint, 'left out')}")
    return hint(value) if hint in (int, float) else value


def _one_of(hint: Any, value: Any, name: str) -> Any:
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
        value: the number to check; NaN fails every bound.
        least, above: closed and open lower bound.
        most, below: closed and open upper bound.
        fix: what to do instead, appended to the message.
    """
    bounds = [
        (least, "at least", lambda bound: value >= bound),
        (above, "above", lambda bound: value > bound),
        (most, "at most", lambda bound: value <= bound),
        (below, "below", lambda bound: value < bound),
    ]
    given = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]
    if not all(holds(bound) for bound, _, holds in given):
        interval = " and ".join(f"{words} {bound:g}" for bound, words, _ in given)
        raise UserError(f"{name}: expected {interval}, got {value}" + (f"; {fix}" if fix else ""))


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionary -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
