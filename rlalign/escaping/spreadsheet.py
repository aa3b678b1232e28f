"""Cells of CSV files: a spreadsheet program shows each text and computes none."""

from __future__ import annotations

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: Any) -> Any:
    """Return a value for a CSV writer: a text that a spreadsheet program would run as a formula begins with `'`.

    A number stays a number, also as a text. Line breaks and tabs at its beginning count, since programs skip them. A
    lone surrogate, which a file cannot hold, becomes its escape.

    Example:
        >>> [cell(value) for value in ("=1+1", "-0.5", "grpo", -0.5)]
        ["'=1+1", '-0.5', 'grpo', -0.5]
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
