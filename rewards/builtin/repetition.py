"""Rewards against repetition: within a text, or of the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words
from rlalign.typecheck import check_range


@reward("repetition", timeout_s=None, range=(-1.0, 0.0))
def repetition(completions: Sequence[Any], *, ngram: int = 1, window: int = 32, **columns: Any) -> list[float]:
    """Return minus the share of n-grams of words that occur among the `window` n-grams before them.

    For a text no longer than the window this is distinct / total - 1. Words are case-folded; an ideograph or an emoji
    is a word. ngram=1 also counts function words (prose: about -0.1 in 16 words), ngram=2 hardly does.

    Range: [-1, 0]; 0 for fewer than two n-grams.
    Cost: linear, about a microsecond per word.
    Deterministic.
    Hacked by: synonyms, misspelt variants, strings of punctuation (which are not words).

    Args:
        completions: B texts or conversations.
        ngram: number of words in an n-gram, at least 1.
        window: number of n-grams to look back, at least 1.
        columns: ignored.

    Raises:
        UserError: an ngram or window below 1.
    """
    check_range("reward 'repetition', ngram", ngram, least=1, fix="use repetition?ngram=1")
    check_range("reward 'repetition', window", window, least=1, fix="use repetition?window=32")
    # 0.0 - share, because -share would be -0.0 for texts without repetition
    return [0.0 - _repeated_share(words(text_of(completion)), ngram, window) for completion in completions]


def _repeated_share(text: list[str], ngram: int, window: int) -> float:
    grams = _ngrams(text, ngram)
    recent: Counter[tuple[str, ...]] = Counter()  # counts within the window
    repeated = 0
    for i, gram in enumerate(grams):
        repeated += recent[gram] > 0
        recent[gram] += 1
        if i >= window:
            recent[grams[i - window]] -= 1
    return repeated / len(grams) if grams else 0.0


@reward("distinct_n", timeout_s=None, range=(0.0, 1.0))
def distinct_n(completions: Sequence[Any], *, ngram: int = 2, **columns: Any) -> list[float]:
    """Return distinct n-grams of words / all n-grams of the completion; 0 without n-grams.

    Range: [0, 1]; long texts score lower than short ones.
    Cost: linear, about a microsecond per word.
    Deterministic.
    Hacked by: short texts, and strings of rare words.
    Source: Li et al., A diversity-promoting objective function for neural conversation models, arXiv 1510.03055.

    Args:
        completions: B texts or conversations.
        ngram: number of words in an n-gram, at least 1.
        columns: ignored.

    Raises:
        UserError: an ngram below 1.
    """
    check_range("reward 'distinct_n', ngram", ngram, least=1, fix="use distinct_n?ngram=2")
    rows = [_ngrams(words(text_of(completion)), ngram) for completion in completions]
    return [len(set(grams)) / len(grams) if grams else 0.0 for grams in rows]


@reward("copy_penalty", timeout_s=None, range=(-1.0, 0.0))
def copy_penalty(prompts: Sequence[Any], completions: Sequence[Any], *, ngram: int = 4, **columns: Any) -> list[float]:
    """Return minus the share of the completion's n-grams of words that also occur in the prompt.

    Range: [-1, 0]; 0 for fewer than n words.
    Cost: linear, about a microsecond per word of both.
    Deterministic.
    Hacked by: copying with every fourth word changed, or texts of fewer than n words.

    Args:
        prompts: B texts or conversations.
        completions: B texts or conversations.
        ngram: n, the number of words in an n-gram, at least 1.
        columns: ignored.

    Raises:
        UserError: an ngram below 1.
    """
    check_range("reward 'copy_penalty', ngram", ngram, least=1, fix="use copy_penalty?ngram=4")
    values = []
    for prompt, completion in zip(prompts, completions, strict=True):
        prompt_grams = set(_ngrams(words(text_of(prompt)), ngram))
        grams = _ngrams(words(text_of(completion)), ngram)
        values.append(-sum(gram in prompt_grams for gram in grams) / len(grams) if grams else 0.0)
    return values


def _ngrams(text: list[str], n: int) -> list[tuple[str, ...]]:
    # zip of n shifted copies; it ends with the shortest one
    return list(zip(*(text[i:] for i in range(n)), strict=False))
