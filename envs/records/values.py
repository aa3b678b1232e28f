"""Values of records as plain Python values. A missing value is None in every kind of data."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

_MISSING_OF_PANDAS = ("NAType", "NaTType")  # by name: pandas is not imported for the check


def plain(value: Any) -> Any:
    """Return a value with Python's own types, in which each missing value (None, NaN, NA, NaT) is None.

    Numbers of numpy and decimal become int or float, arrays become lists, dates become ISO 8601 texts, bytes in UTF-8
    become texts, and other bytes, such as pictures, are returned unchanged. Lists, tuples and dictionaries are
    converted in depth; objects of other types are returned unchanged.

    Raises:
        ValueError: a text has a lone surrogate, which no tokenizer encodes and no file stores.

    Example:
        >>> plain([np.int64(5), float("nan"), (1e-05, b"a")])
        [5, None, (1e-05, 'a')]
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return checked_text(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if type(value) is dict:
        return {name: plain(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(part) for part in value)
    return _other(value)


def _other(value: Any) -> Any:
    """Return a value of a type that files and data frames rarely hold."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if type(value).__name__ in _MISSING_OF_PANDAS:
        return None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def checked_text(text: str) -> str:
    """Return a text unchanged.

    Raises:
        ValueError: it has a lone surrogate.
    """
    if not text.isascii():  # one flag of the string, so that most texts cost nothing
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected text, got the lone surrogate {text[error.start]!r} at character {error.start + 1}"
            ) from None
    return text


def has_bytes(value: Any) -> bool:
    """Return whether a plain value is or contains bytes.

    Example:
        >>> has_bytes(["a", {"b": b"x"}]), has_bytes("a")
        (True, False)
    """
    if isinstance(value, Mapping):
        return any(map(has_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, list | tuple) and any(map(has_bytes, value)))


def are_integers(column: Iterable[Any]) -> bool:
    """Return whether a column holds integers as floats because some values are missing, as data frames store them.

    A float column without a missing value was float on purpose.

    Example:
        >>> are_integers([5.0, None]), are_integers([5.0, 6.0]), are_integers([5.5, None])
        (True, False, False)
    """
    has_missing = False
    has_number = False
    for value in column:
        if value is None or value != value:  # NaN differs from itself
            has_missing = True
        elif isinstance(value, float) and value.is_integer():
            has_number = True
        else:
            return False
    return has_missing and has_number


def shown(value: Any) -> str:
    """Return a value for an error message: its type if that is not clear, and at most 60 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, str) or value is None else f"{text} ({type(value).__name__})"
