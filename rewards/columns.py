"""Columns of the tasks as rewards read them: one entry per sample, or one parameter for all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from rlalign.rewards.text import text_of
from rlalign.types import is_missing, text_of_value, texts_of

__all__ = ["items_of", "notations_of", "per_sample", "score_answers", "score_references", "text_of_value", "texts_of"]


def per_sample(column: Any, count: int) -> list[Any]:
    """Return a column with one entry per sample.

    Args:
        column: a sequence of `count` entries, returned as a list; a text, a number or None (a parameter), repeated.
        count: number of samples.

    Example:
        >>> per_sample(["4", "5"], 2), per_sample("4", 2)
        (['4', '5'], ['4', '4'])
    """
    # A text is a sequence of characters, but here it is one entry.
    if isinstance(column, str) or not isinstance(column, Sequence):
        return [column] * count
    return list(column)


def score_answers(
    completions: Sequence[Any], answers: Iterable[Any], score: Callable[[str, Any], float]
) -> list[float | None]:
    """Return `score(text, answer)` per sample, and None where the answer is missing.

    Args:
        completions: B texts or conversations.
        answers: B answers.
        score: called with the text of the completion and the answer.

    Example:
        >>> score_answers(["Yes", "no"], ["yes", None], lambda text, answer: float(text.lower() == answer))
        [1.0, None]
    """
    pairs = zip(completions, answers, strict=True)
    return [None if is_missing(answer) else score(text_of(completion), answer) for completion, answer in pairs]


def score_references(
    completions: Sequence[Any], answers: Iterable[Any], score: Callable[[str, str], float], *, notations: bool = False
) -> list[float | None]:
    """Return the largest `score(text, reference)` over the references of each sample, and None without a reference.

    Args:
        completions: B texts or conversations.
        answers: B answers: each a text, a number or a boolean, or a list of these, of which one suffices.
        score: called with the text of the completion and the text of a reference.
        notations: also compare with the other notations of a number or a boolean (see `notations_of`).

    Example:
        >>> score_references(["5", "7"], [[4, 5], None], lambda text, reference: float(text == reference))
        [1.0, None]
    """
    values: list[float | None] = []
    for completion, answer in zip(completions, answers, strict=True):
        if isinstance(answer, str):  # the common case
            values.append(score(text_of(completion), answer))
            continue
        references = notations_of(answer) if notations else texts_of(answer)
        text = text_of(completion)
        values.append(max((score(text, reference) for reference in references), default=None))
    return values


def notations_of(entry: Any) -> list[str]:
    """Return the texts of one entry as `texts_of`, and for numbers and booleans also Python's notation.

    Example:
        >>> notations_of(5.0), notations_of([1e-05, "x"]), notations_of(True)
        (['5', '5.0'], ['0.00001', '1e-05', 'x'], ['true', 'True'])
    """
    parts = entry if isinstance(entry, list | tuple) else [entry]
    texts = [[text_of_value(part), str(part)] for part in parts if not is_missing(part)]
    return list(dict.fromkeys(chain.from_iterable(texts)))


def items_of(entry: Any) -> list[str]:
    """Return the members of a list, or of a text split at `|` (the form of a list in a parameter).

    Example:
        >>> items_of("yes|no"), items_of(["yes", "no"])
        (['yes', 'no'], ['yes', 'no'])
    """
    parts = entry.split("|") if isinstance(entry, str) else texts_of(entry)
    return [part.strip() for part in parts if part.strip()]
