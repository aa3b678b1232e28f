"""Completions as texts, for the rewards that stand in the environments' own files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def texts(completions: Sequence[Any]) -> list[str]:
    """The texts of completions: themselves, or what the assistant says in them where the prompt is a conversation."""
    return [c if isinstance(c, str) else "\n".join(str(part.get("content") or "") for part in c) for c in completions]
