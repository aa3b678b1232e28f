"""Reward for the sentiment of an English text, by a lexicon."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@reward("vader", timeout_s=None, range=(-1.0, 1.0))
def vader(completions: Sequence[Any], *, limit: int = 5_000, **columns: Any) -> list[float]:
    """Return VADER's compound polarity: a lexicon of English and emoji with rules for negation and emphasis.

    VADER is quadratic in the length, so only the first `limit` characters are read.

    Range: [-1, 1]; 0 for an empty text and for other languages.
    Cost: about 70 microseconds per sentence on one core.
    Deterministic.
    Hacked by: lists of superlatives ("great great love"), exclamation marks, capitals, happy emoji; meaning plays no
        part. Pair it with `repetition` and a KL penalty.
    Source: Hutto and Gilbert, VADER: a parsimonious rule-based model for sentiment analysis, ICWSM 2014.

    Args:
        completions: B texts or conversations.
        limit: number of characters that are read.
        columns: ignored.
    """
    return [float(_analyzer().polarity_scores(text_of(completion)[:limit])["compound"]) for completion in completions]
