"""Counts of Markdown elements of a completion."""

from __future__ import annotations

import re

STYLES = ("headers", "lists", "bold")
"""Markdown elements that are counted per completion."""

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# patterns that begin with a fixed character are found several times faster than those that begin with ^
_LINES = re.compile(r"\n(?: {0,3}(#{1,6})|[ \t]*(?:[-*+]|\d+[.)]))\s")
_STARS = re.compile(r"\*\*[^*\n]+\*\*")
_UNDERSCORES = re.compile(r"__[^_\n]+__")


def markdown_counts(text: str) -> tuple[int, int, int]:
    """Return the number of headers, list entries and bold passages of a Markdown text, without its code blocks."""
    if "```" in text:
        text = _CODE.sub("", text)
    starts: list[str] = _LINES.findall(f"\n{text}")  # the number signs of a header, or nothing for an entry
    entries = starts.count("")
    bold = len(_STARS.findall(text)) if "**" in text else 0
    bold += len(_UNDERSCORES.findall(text)) if "__" in text else 0
    return len(starts) - entries, entries, bold
