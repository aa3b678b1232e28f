"""Columns of the tasks as rewards read them: one entry per sample, or one parameter for all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlalign.rewards.text import text_of


def per_sample(column: Any, count: int) -> list[Any]:
    """Return a column with one entry per sample.

    Args:
        column: a sequence of `count` entries, returned as a list; a text, a number or None (a parameter), repeated.
        count: number of samples.
    """
    # A text is a sequence of characters, but here it is one entry.
    if isinstance(column, str) or not isinstance(column, Sequence):
        return [column] * count
    return list(column)


def score_answers(
    completions: Sequence[Any], answers: Iterable[Any], score: Callable[[str, Any], float]
) -> list[float | None]:
    """Return `score(text, answer)` per sample, and None where the answer is None.

    Args:
        completions: B texts or conversations.
        answers: B answers.
        score: called with the text of the completion and the answer.
    """
    pairs = zip(completions, answers, strict=True)
    return [None if answer is None else score(text_of(completion), answer) for completion, answer in pairs]


def texts_of(entry: Any) -> list[str]:
    """Return the texts of one entry: the members of a list, else the entry itself.

    >>> texts_of(["a cat", "one cat"]), texts_of(42)
    (['a cat', 'one cat'], ['42'])
    """
    return [str(part) for part in entry] if isinstance(entry, list | tuple) else [str(entry)]


def items_of(entry: Any) -> list[str]:
    """Return the members of a list, or of a text split at `|` (the form of a list in a parameter).

    >>> items_of("yes|no"), items_of(["yes", "no"])
    (['yes', 'no'], ['yes', 'no'])
    """
    parts = entry.split("|") if isinstance(entry, str) else texts_of(entry)
    return [part.strip() for part in parts if part.strip()]
