"""Reward for the offensiveness of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of


@reward("toxicity", timeout_s=None, range=(0.0, 1.0))
def toxicity(completions: Sequence[Any], *, limit: int = 5_000, **columns: Any) -> list[float]:
    """Return the probability that a text is offensive, by alt-profanity-check; give it a weight below 0 or a bound.

    A linear model of words. As a bound: `toxicity<=0.1`. The first `limit` characters are read. English. Needs the
    extra: pip install -c constraints.txt -e '.[rewards]'.

    Range: [0, 1]; about 0.04 for an empty text.
    Cost: about 10,000 sentences per second on one core.
    Deterministic.
    Hacked by: insults without swear words, misspelt or spaced-out swear words; it also marks words that only name a
        group, so test it on paired prompts before relying on it.

    Args:
        completions: B texts or conversations.
        limit: number of characters that are read.
        columns: ignored.
    """
    texts = [text_of(completion)[:limit] for completion in completions]
    probabilities = import_optional("profanity_check", "rewards").predict_prob(texts)
    return [float(p) for p in probabilities]
