"""Columns as rewards read them: one entry per sample, or one text given as a parameter for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def per_sample(given: Any, count: int) -> list[Any]:
    """A column of `count` entries as it is; a text, a number or None (a parameter) repeated."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given] * count
    return list(given)


def texts_of(entry: Any) -> list[str]:
    """The texts of one entry: a list's members, else the entry itself.

    >>> texts_of(["a cat", "one cat"]), texts_of(42)
    (['a cat', 'one cat'], ['42'])
    """
    return [str(part) for part in entry] if isinstance(entry, list | tuple) else [str(entry)]


def items_of(entry: Any) -> list[str]:
    """Members of a list, or of a text that is split at `|`: how a list is written as a parameter.

    >>> items_of("yes|no"), items_of(["yes", "no"])
    (['yes', 'no'], ['yes', 'no'])
    """
    parts = entry.split("|") if isinstance(entry, str) else texts_of(entry)
    return [part.strip() for part in parts if part.strip()]
