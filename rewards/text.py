"""What a word is, in any script, and the text of a prompt or completion in either of TRL's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_IDEOGRAPHS = "\u2e80-\u2fff\u3005-\u3007\u3040-\u9fff\uf900-\ufaff"  # Chinese and Japanese: no blanks between words
_PICTURES = "\u2600-\u27bf\U0001f000-\U0001faff"  # emoji
_WORD = re.compile(rf"[{_IDEOGRAPHS}{_PICTURES}]|[^\W{_IDEOGRAPHS}]+(?:['’][^\W{_IDEOGRAPHS}]+)*")


def words(text: str) -> list[str]:
    """The words of a text, case-folded; an ideograph or an emoji is a word of its own, punctuation is none."""
    return _WORD.findall(text.casefold())


def text_of(message: str | Sequence[Mapping[str, Any]]) -> str:
    """A text itself, or the contents of a conversation joined by line breaks."""
    if isinstance(message, str):
        return message
    return "\n".join(str(part.get("content") or "") for part in message)


def shorten(text: str, limit: int = 60) -> str:
    """The start of a text as a Python literal, for error messages."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
