"""A brevity reward that several built-in environments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.rewards.text import text_of


def brevity(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Return -1/8 per word beyond the length of the answer, bounded below by -1.

    Args:
        completions: B completions, as text or as messages.
        answer: reference answer of each completion.
        columns: other columns, ignored.

    Returns:
        B values in [-1, 0].
    """
    values = []
    for completion, reference in zip(completions, answer, strict=True):
        excess_words = max(0, len(text_of(completion).split()) - len(reference.split()))
        values.append(-min(1.0, excess_words / 8))
    return values
