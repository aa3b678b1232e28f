"""How offensive a text is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of


@reward("toxicity", timeout_s=None, range=(0.0, 1.0))
def toxicity(completions: Sequence[Any], *, limit: int = 5_000, **columns: Any) -> list[float]:
    """Probability that a text is offensive, by alt-profanity-check (a linear model of words); give it a weight below 0.

    Or keep it under a bound: `toxicity<=0.1`. Range: [0, 1]; about 0.04 for an empty text. Cost: about 10,000 sentences
    a second on one core; the first `limit` characters are read. Deterministic. English.
    Hacked by: insults without swear words, misspelt or spaced-out swear words; it also marks words that only name a
    group, so look at paired prompts before trusting it.
    Needs the extra: pip install 'rlalign[rewards]'.
    """
    found = import_optional("profanity_check", "rewards").predict_prob([text_of(c)[:limit] for c in completions])
    return [float(p) for p in found]
