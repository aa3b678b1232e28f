"""Saying the same thing again: within a text, or after the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words


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
    return [0.0 - _repeated_share(words(text_of(c)), ngram, window) for c in completions]


def _repeated_share(text: list[str], ngram: int, window: int) -> float:
    grams = _ngrams(text, ngram)
    recent: Counter[tuple[str, ...]] = Counter()
    repeated = 0
    for i, gram in enumerate(grams):
        repeated += recent[gram] > 0
        recent[gram] += 1
        if i >= window:
            recent[grams[i - window]] -= 1
    return repeated / len(grams) if grams else 0.0


@reward("distinct_n", timeout_s=None, range=(0.0, 1.0))
def distinct_n(completions: Sequence[Any], *, ngram: int = 2, **columns: Any) -> list[float]:
    """Distinct n-grams of words / all n-grams of the completion; 0 where it has none.

    Range: [0, 1]; long texts score lower than short ones. Cost: linear, about a microsecond a word. Deterministic.
    Hacked by: short texts, and strings of rare words.
    Source: Li et al., A diversity-promoting objective function for neural conversation models, arXiv 1510.03055.
    Raises UserError for an ngram below 1.
    """
    if ngram < 1:
        raise UserError(f"reward 'distinct_n': ngram is {ngram}: give 1 or more")
    rows = [_ngrams(words(text_of(c)), ngram) for c in completions]
    return [len(set(grams)) / len(grams) if grams else 0.0 for grams in rows]


@reward("copy_penalty", timeout_s=None, range=(-1.0, 0.0))
def copy_penalty(prompts: Sequence[Any], completions: Sequence[Any], *, ngram: int = 4, **columns: Any) -> list[float]:
    """Minus the share of the completion's n-grams of words that stand in the prompt too.

    Range: [-1, 0]; 0 for fewer than n words. Cost: linear, about a microsecond a word of both. Deterministic.
    Hacked by: copying with every fourth word changed, or texts of fewer than n words.
    Raises UserError for an ngram below 1.
    """
    if ngram < 1:
        raise UserError(f"reward 'copy_penalty': ngram is {ngram}: give 1 or more")
    values = []
    for prompt, completion in zip(prompts, completions, strict=True):
        there, said = set(_ngrams(words(text_of(prompt)), ngram)), _ngrams(words(text_of(completion)), ngram)
        values.append(-sum(gram in there for gram in said) / len(said) if said else 0.0)
    return values


def _ngrams(text: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[i:] for i in range(n)), strict=False))
