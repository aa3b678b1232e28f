"""Rewards for saying what was asked for: the answer itself, part of it, or a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of


@reward("exact_match", timeout_s=None, range=(0.0, 1.0))
def exact_match(
    completions: Sequence[Any], answer: Sequence[Any], *, ignore_case: bool = False, **columns: Any
) -> list[float | None]:
    """1 where the completion is the `answer` column, blanks around both left out, else 0; None without an answer.

    Range: {0, 1}. Cost: none to speak of. Deterministic. Hacked by: nothing, but sparse: learning may never find a 1.
    """
    fold = str.casefold if ignore_case else str
    pairs = zip(completions, answer, strict=True)
    return [None if a is None else float(fold(text_of(c).strip()) == fold(str(a).strip())) for c, a in pairs]


@reward("token_match", timeout_s=None, range=(0.0, 1.0))
def token_match(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """Share of character positions at which completion and `answer` agree, of the longer's length; None without one.

    Blanks around both are left out; two empty texts agree wholly. Range: [0, 1], 1 for the answer alone. Cost: none to
    speak of. Deterministic. Hacked by: the most frequent character at every position; shifted answers score low.
    """
    pairs = zip(completions, answer, strict=True)
    return [None if a is None else _agreement(text_of(c).strip(), str(a).strip()) for c, a in pairs]


def _agreement(said: str, wanted: str) -> float:
    longer = max(len(said), len(wanted))
    return sum(a == b for a, b in zip(said, wanted, strict=False)) / longer if longer else 1.0


@reward("regex", timeout_s=10.0, range=(0.0, 1.0))
def regex(
    completions: Sequence[Any], *, pattern: str | re.Pattern[str], full: bool = False, **columns: Any
) -> list[float]:
    r"""1 where the pattern is found in the completion (`full`: matches all of it), else 0: `regex?pattern=\d+`.

    Range: {0, 1}. Cost: Python's `re`, which some patterns send into exponential time, hence the worker and its
    timeout. Deterministic. Hacked by: the shortest string that matches, again and again.
    """
    compiled = re.compile(pattern)
    find = compiled.fullmatch if full else compiled.search
    return [float(find(text_of(c)) is not None) for c in completions]
