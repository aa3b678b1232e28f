"""Words of a text in any script, and the text of a prompt or completion in either of TRL's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Chinese and Japanese put no spaces between words, so each ideograph counts as a word.
_IDEOGRAPHS = "\u2e80-\u2fff\u3005-\u3007\u3040-\u9fff\uf900-\ufaff"
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"
# One ideograph or emoji, or a run of other letters and digits; an apostrophe inside a run belongs to it ("don't").
_WORD = re.compile(rf"[{_IDEOGRAPHS}{_EMOJI}]|[^\W{_IDEOGRAPHS}]+(?:['’][^\W{_IDEOGRAPHS}]+)*")


def words(text: str) -> list[str]:
    """Return the case-folded words of a text, of any script. Each ideograph or emoji is a word; punctuation is not.

    Example:
        >>> words("Don't panic: 你好!")
        ["don't", 'panic', '你', '好']
    """
    return _WORD.findall(text.casefold())


def text_of(message: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a text itself, or the contents of a conversation joined by line breaks.

    A reward calls it on prompts and completions, which are conversations if the tasks' prompts are. Of a content
    that is a list of parts, the parts with a text count.

    Example:
        >>> text_of([{"role": "assistant", "content": "42"}]), text_of("42")
        ('42', '42')
        >>> text_of([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}])
        'Hi'
    """
    if isinstance(message, str):
        return message
    return "\n".join(_content_text(part.get("content")) for part in message)


def _content_text(content: Any) -> str:
    if isinstance(content, list | tuple):
        return "".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part) for part in content)
    return str(content or "")


def shorten(text: str, limit: int = 60) -> str:
    """Return the first `limit` characters of a text as a Python literal, for error messages."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
