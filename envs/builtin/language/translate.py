"""Translate-v0: a small grammar in English, German and Chinese. Agreement and measure words make it more than look-up.

Start and learning of the small policies: benchmarks/environments.py. Warm start: 150 to 300 steps with
`--supervised.align-interval 1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

# English; German noun and its gender; Chinese noun and its measure word
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
_THE = {"m": "der", "f": "die", "n": "das"}
_A = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}  # accusative, with the ending of the adjective
_NAMES = {"de": "German", "zh": "Chinese"}


def sentence(rng: np.random.Generator, words: int) -> dict[str, str]:
    """A sentence in each language; `words` of a class are in use: words ** 5 sentences."""
    actor, thing = _ACTORS[rng.integers(words)], _THINGS[rng.integers(words)]
    one, other = _QUALITIES[rng.integers(words)], _QUALITIES[rng.integers(words)]
    verb = _VERBS[rng.integers(words)]
    article, ending = _A[thing[2]]
    return {
        "en": f"the {one[0]} {actor[0]} {verb[0]} a {other[0]} {thing[0]}",
        "de": f"{_THE[actor[2]]} {one[1]}e {actor[1]} {verb[1]} {article} {other[1]}{ending} {thing[1]}",
        "zh": f"那{actor[4]}{one[2]}{actor[3]}{verb[2]}一{thing[4]}{other[2]}{thing[3]}",
    }


class Translate(TextMDP):
    """State: an English sentence. Action: its translation. Reward: BLEU and chrF against the one right translation.

    Data: generated here, no licence needed. The German of a sentence agrees in gender and case, the Chinese in measure
    words, so that a word's translation depends on another word.

    Args:
        language: de or zh.
        words: of each class (actors, things, qualities, verbs), 2 to 5.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Translate-v0"
    description = "translate the sentences of a small grammar into German or Chinese (BLEU, chrF)"
    rewards: ClassVar[Mapping[str, float]] = {"bleu": 0.5, "chrf": 0.5}
    gold_score = 1.0

    def __init__(self, *, language: str = "de", words: int = 3, seed: int = 0, **kwargs: Any) -> None:
        self.language = corpora.one_of("Translate", "language", language, _NAMES)
        self.words = corpora.within("Translate", "words", words, 2, len(_VERBS))

        def make(rng: np.random.Generator) -> dict[str, str]:
            made = sentence(rng, words)
            return {"prompt": f"English: {made['en']}\n{_NAMES[language]}:", "answer": made[language]}

        sizes = {"max_prompt": 72, "max_new": (12, 64)}
        rewards = {"bleu": 0.5, "chrf": 0.5} if language == "de" else {"bleu?tokenize=zh": 0.5, "chrf": 0.5}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), "rewards": rewards, **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the grammar."""
        nouns, at = (*_ACTORS[: self.words], *_THINGS[: self.words]), {"de": 1, "zh": 2}[self.language]
        qualities, verbs = _QUALITIES[: self.words], _VERBS[: self.words]
        words = [w[0] for w in (*nouns, *qualities, *verbs)] + [w[at] for w in verbs]
        if self.language == "de":
            words += [n[1] for n in nouns] + [q[1] + end for q in qualities for end in ("e", "en", "es")]
            words += [*_THE.values(), *(article for article, _ in _A.values())]
        else:
            words += [part for n in nouns for part in n[3:]] + [q[2] for q in qualities] + ["那", "一"]
        return WordTokenizer(["English:", f"{_NAMES[self.language]}:", "\n", "the", "a", *words])
