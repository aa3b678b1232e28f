"""Texts for the terminal, with visible control characters and in any encoding."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

# Control characters but line feed and tab: the escape character begins a sequence that can clear the screen or set a
# title, and a carriage return overwrites the line. Characters that reverse the direction of writing. Line separators.
# Lone surrogates, which no encoding has.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text with its control characters as Python writes them, such as \x1b; line feeds and tabs stay.

    Example:
        >>> visible("\x1b[31mred\r")
        '\\x1b[31mred\\r'
    """
    return _INVISIBLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def in_one_line(text: str) -> str:
    """Return a text like `visible`, with its line feeds as escapes too."""
    return visible(text).replace("\n", "\\n")


def print_text(text: object, *, to_stderr: bool = False) -> None:
    """Print a text and a line feed without a console, for output that another program may read."""
    escape_unencodable()
    print(visible(str(text)), file=sys.stderr if to_stderr else sys.stdout)


def print_json(value: Any) -> None:
    """Print a JSON value; characters that `visible` escapes become escapes of JSON, so that it reads the same."""
    escape_unencodable()
    text = json.dumps(value, ensure_ascii=False, indent=1)
    print(_INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text))


def escape_unencodable() -> None:
    """Let stdout print a character that its encoding lacks as an escape, rather than raise UnicodeEncodeError."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
