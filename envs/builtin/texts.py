"""Completions as texts, and a reward for brevity, for the environments that bring rewards of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def texts(completions: Sequence[Any]) -> list[str]:
    """The texts of completions: themselves, or what the assistant says in them where the prompt is a conversation."""
    return [c if isinstance(c, str) else "\n".join(str(part.get("content") or "") for part in c) for c in completions]


def brevity(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Minus an eighth for each word beyond as many as the answer has, at most -1."""
    pairs = zip(texts(completions), answer, strict=True)
    return [-min(1.0, max(0, len(text.split()) - len(wanted.split())) / 8) for text, wanted in pairs]
