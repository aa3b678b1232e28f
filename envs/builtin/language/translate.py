"""Translate-v0: sentences of a small grammar in English, German and Chinese.

Agreement and measure words require more than a dictionary. benchmarks/environments.py measures untrained and trained
small policies. Warm start: 150 to 300 steps with `--supervised.align-interval 1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_choice, check_integer
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

# English noun; German noun and its gender; Chinese noun and its measure word.
_ACTORS = (
    ("cat", "Katze", "f", "猫", "只"),
    ("dog", "Hund", "m", "狗", "只"),
    ("child", "Kind", "n", "孩子", "个"),
    ("woman", "Frau", "f", "女人", "个"),
    ("teacher", "Lehrer", "m", "老师", "位"),
)
_THINGS = (
    ("apple", "Apfel", "m", "苹果", "个"),
    ("book", "Buch", "n", "书", "本"),
    ("flower", "Blume", "f", "花", "朵"),
    ("car", "Auto", "n", "车", "辆"),
    ("lamp", "Lampe", "f", "灯", "盏"),
)
_QUALITIES = (
    ("small", "klein", "小"),
    ("red", "rot", "红"),
    ("new", "neu", "新"),
    ("big", "groß", "大"),
    ("good", "gut", "好"),
)
_VERBS = (
    ("sees", "sieht", "看见"),
    ("buys", "kauft", "买"),
    ("paints", "malt", "画"),
    ("wants", "will", "想要"),
    ("finds", "findet", "找到"),
)
_DEFINITE_ARTICLES = {"m": "der", "f": "die", "n": "das"}
# Accusative article, and the ending of the adjective after it.
_INDEFINITE_ARTICLES = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}
_LANGUAGE_NAMES = {"de": "German", "zh": "Chinese"}


def sentence(rng: np.random.Generator, words: int) -> dict[str, str]:
    """Return language -> the same random sentence; with `words` words per class there are words ** 5 sentences."""
    actor = _ACTORS[rng.integers(words)]
    thing = _THINGS[rng.integers(words)]
    actor_quality = _QUALITIES[rng.integers(words)]
    thing_quality = _QUALITIES[rng.integers(words)]
    verb = _VERBS[rng.integers(words)]
    return {
        "en": f"the {actor_quality[0]} {actor[0]} {verb[0]} a {thing_quality[0]} {thing[0]}",
        "de": _german(actor, actor_quality[1], verb[1], thing_quality[1], thing),
        "zh": f"那{actor[4]}{actor_quality[2]}{actor[3]}{verb[2]}一{thing[4]}{thing_quality[2]}{thing[3]}",
    }


def _german(actor: tuple[str, ...], actor_quality: str, verb: str, thing_quality: str, thing: tuple[str, ...]) -> str:
    subject = f"{_DEFINITE_ARTICLES[actor[2]]} {actor_quality}e {actor[1]}"
    article, ending = _INDEFINITE_ARTICLES[thing[2]]
    return f"{subject} {verb} {article} {thing_quality}{ending} {thing[1]}"


class Translate(TextMDP):
    """Translation of a small grammar.

    The German of a sentence agrees in gender and case, and the Chinese in measure words. The translation of a word
    therefore depends on another word.

    State: an English sentence.
    Action: a token of its translation.
    Reward: 0.5 · BLEU plus 0.5 · chrF against the one correct translation.
    Data: generated here, no license needed.

    Args:
        language: de or zh.
        words: number of words of each class (actors, things, qualities, verbs), 2 to 5.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Translate-v0"
    description = "translate the sentences of a small grammar into German or Chinese (BLEU, chrF)"
    rewards: ClassVar[Mapping[str, float]] = {"bleu": 0.5, "chrf": 0.5}
    gold_score = 1.0

    def __init__(self, *, language: str = "de", words: int = 3, seed: int = 0, **kwargs: Any) -> None:
        self.language = check_choice("Translate", "language", language, _LANGUAGE_NAMES)
        self.words = check_integer("Translate words", words, 2, len(_VERBS))

        def make(rng: np.random.Generator) -> dict[str, str]:
            translations = sentence(rng, words)
            prompt = f"English: {translations['en']}\n{_LANGUAGE_NAMES[language]}:"
            return {"prompt": prompt, "answer": translations[language]}

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "rewards": {"bleu" if language == "de" else "bleu?tokenize=zh": 0.5, "chrf": 0.5},
            "max_prompt": 72,
            "max_new": (12, 64),
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the grammar."""
        nouns = (*_ACTORS[: self.words], *_THINGS[: self.words])
        qualities = _QUALITIES[: self.words]
        verbs = _VERBS[: self.words]
        column = {"de": 1, "zh": 2}[self.language]  # of the target language in the table of verbs
        words = [entry[0] for entry in (*nouns, *qualities, *verbs)] + [verb[column] for verb in verbs]
        if self.language == "de":
            words += [noun[1] for noun in nouns]
            words += [quality[1] + ending for quality in qualities for ending in ("e", "en", "es")]
            words += [*_DEFINITE_ARTICLES.values(), *(article for article, _ in _INDEFINITE_ARTICLES.values())]
        else:
            words += [part for noun in nouns for part in noun[3:]]
            words += [quality[2] for quality in qualities] + ["那", "一"]
        return WordTokenizer(["English:", f"{_LANGUAGE_NAMES[self.language]}:", "\n", "the", "a", *words])
