"""Rewards for an exact answer, a partly right answer, or a match of a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlalign.rewards.columns import per_sample, score_references
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of


@reward("exact_match", timeout_s=None, range=(0.0, 1.0))
def exact_match(
    completions: Sequence[Any], answer: Sequence[Any], *, ignore_case: bool = False, **columns: Any
) -> list[float | None]:
    """Return 1 where the completion equals the `answer` column, ignoring surrounding whitespace, else 0.

    An answer may be a list, of which one suffices. A number or a boolean equals its usual notations: 5.0 is `5` and
    `5.0`, 1e-05 is `0.00001` and `1e-05`, true is `true` and `True`.

    Range: {0, 1}; None without an answer.
    Cost: negligible.
    Deterministic.
    Hacked by: nothing, but sparse: training may never sample a 1.

    Args:
        completions: B texts or conversations.
        answer: column of answers, or one answer as a parameter.
        ignore_case: compare without regard to case.
        columns: ignored.
    """
    fold = str.casefold if ignore_case else str
    return score_references(
        completions,
        per_sample(answer, len(completions)),
        lambda text, reference: float(fold(text.strip()) == fold(reference.strip())),
        notations=True,
    )


@reward("token_match", timeout_s=None, range=(0.0, 1.0))
def token_match(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return the share of character positions at which completion and `answer` agree, of the longer text's length.

    Surrounding whitespace is ignored. Two empty texts score 1. Of a list of answers the best counts.

    Range: [0, 1], 1 for the answer alone; None without an answer.
    Cost: negligible.
    Deterministic.
    Hacked by: the most frequent character at every position; shifted answers score low.

    Args:
        completions: B texts or conversations.
        answer: column of answers, or one answer as a parameter.
        columns: ignored.
    """
    answers = per_sample(answer, len(completions))
    return score_references(
        completions, answers, lambda text, reference: _agreement(text.strip(), reference.strip()), notations=True
    )


def _agreement(text: str, reference: str) -> float:
    longer = max(len(text), len(reference))
    return sum(a == b for a, b in zip(text, reference, strict=False)) / longer if longer else 1.0


@reward("regex", timeout_s=10.0, range=(0.0, 1.0))
def regex(
    completions: Sequence[Any], *, pattern: str | re.Pattern[str], full: bool = False, **columns: Any
) -> list[float]:
    r"""Return 1 where the pattern matches a part of the completion (`full`: all of it), else 0: `regex?pattern=\d+`.

    Range: {0, 1}.
    Cost: that of Python's `re`, exponential for some patterns, hence the worker and its timeout.
    Deterministic.
    Hacked by: the shortest string that matches, again and again.

    Args:
        completions: B texts or conversations.
        pattern: regular expression of Python's `re`; in a spec, write `&` as %26 and `%` as %25.
        full: match the whole completion instead of a part of it.
        columns: ignored.
    """
    compiled = re.compile(pattern)
    find = compiled.fullmatch if full else compiled.search
    return [float(find(text_of(completion)) is not None) for completion in completions]
