"""Cells of CSV files that hold any JSON value, are read back exactly, and that no spreadsheet program runs.

A text is written as it is, None as an empty cell, and everything else as JSON. A text begins with `'` if it would be
read as another value without it, or run as a formula (`rlalign.escaping.spreadsheet`). The reader removes `'` exactly
where the writer adds it: `'=1+1` is the text `=1+1`, and `'tis` stays `'tis`.

In the columns of `TEXT_COLUMNS`, only lists of messages are JSON: the answer `42` is a text there.
"""

from __future__ import annotations

import json
from typing import Any

from rlalign.escaping.spreadsheet import cell as spreadsheet_cell
from rlalign.preferences.pairs import is_side

TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion", "messages")


def write_cell(value: Any, column: str) -> str:
    """Return the cell of a JSON value.

    Raises:
        TypeError: the value is not JSON.

    Example:
        >>> [write_cell(value, "note") for value in ("=1+1", "5", 5, None, "", [1])]
        ["'=1+1", "'5", '5', '', "'", '[1]']
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if _needs_mark(value, column) else value
    return json.dumps(value, ensure_ascii=False)


def read_cell(text: str | None, column: str) -> Any:
    """Return the value of a cell; the inverse of `write_cell`.

    Example:
        >>> [read_cell(text, "note") for text in ("'=1+1", "'tis", "5", "007", "")]
        ['=1+1', "'tis", 5, '007', None]
    """
    if not text:
        return None
    if text.startswith("'") and _needs_mark(text[1:], column):
        return text[1:]
    found, value = _json_value(text, column)
    return value if found else text


def _needs_mark(text: str, column: str) -> bool:
    """Return True for a text that a reader would take for another value, or a spreadsheet program for a formula."""
    # a text of marks is as its rest: else the mark of `''=1` would be removed once more than it was added
    rest = text.lstrip("'")
    return not rest or spreadsheet_cell(rest) != rest or _json_value(rest, column)[0]


def _json_value(text: str, column: str) -> tuple[bool, Any]:
    """Return whether a cell is JSON, and its value.

    Numbers, lists and objects count if they are written as Python writes JSON: `007` and `1e5` of other programs stay
    texts, and are written again as they were.
    """
    if column in TEXT_COLUMNS:
        if not text.startswith("["):
            return False, None
    elif text[0] not in '-0123456789[{tfNI"':
        return False, None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False, None
    if column in TEXT_COLUMNS:
        return isinstance(value, list) and is_side(value), value
    return not isinstance(value, str) and value is not None and json.dumps(value, ensure_ascii=False) == text, value
