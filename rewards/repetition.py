"""A penalty for saying the same thing again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.reward import reward
from rlalign.rewards.text import plain, words


@reward("repetition", timeout_s=None, range=(-1.0, 0.0))
def repetition(completions: Sequence[Any], *, ngram: int = 1, window: int = 32, **columns: Any) -> list[float]:
    """Minus the share of n-grams of words that already stood among the `window` n-grams before them.

    For a text no longer than the window this is distinct / total - 1. Words are case-folded; an ideograph or an emoji
    is a word. ngram=1 also counts function words (prose: about -0.1 in 16 words), ngram=2 hardly does.
    Range: [-1, 0]; 0 for fewer than two n-grams. Cost: linear, about a microsecond a word. Deterministic.
    Hacked by: synonyms, misspelt variants, strings of punctuation (which are no words).
    Raises UserError for an ngram or window below 1.
    """
    if ngram < 1 or window < 1:
        raise UserError(f"reward 'repetition': ngram is {ngram}, window is {window}: give 1 or more")
    return [0.0 - _repeated_share(words(plain(c)), ngram, window) for c in completions]


def _repeated_share(text: list[str], ngram: int, window: int) -> float:
    grams = list(zip(*(text[i:] for i in range(ngram)), strict=False))
    recent: Counter[tuple[str, ...]] = Counter()
    repeated = 0
    for i, gram in enumerate(grams):
        repeated += recent[gram] > 0
        recent[gram] += 1
        if i >= window:
            recent[grams[i - window]] -= 1
    return repeated / len(grams) if grams else 0.0
