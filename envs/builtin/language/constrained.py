"""Constrained-v0: one sentence with all of the given words, as in CommonGen, in a small controlled language.

Start and learning of the small policies: benchmarks/environments.py. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, against early
certainty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.texts import texts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

_WORDS: Mapping[str, tuple[str, ...]] = {
    "article": ("the",),
    "quality": ("small", "old", "happy", "tired", "young", "quiet", "big", "kind"),
    "actor": ("dog", "girl", "farmer", "horse", "boy", "cat", "doctor", "bird"),
    "verb": ("sings", "runs", "sleeps", "waits", "dances", "plays", "eats", "works"),
    "in": ("in",),
    "place": ("park", "garden", "kitchen", "street", "forest", "school", "barn", "city"),
}
_FOLLOWS = {
    "": ("article",),  # the beginning
    "article": ("quality", "actor", "place"),
    "quality": ("quality", "actor", "place"),
    "actor": ("verb",),
    "verb": ("in",),
    "in": ("article",),
    "place": ("",),  # the end
}
_CLASS = {word: kind for kind, words in _WORDS.items() for word in words}


_JOINED = ("quality", "actor", "verb", "place")  # the classes that words are asked from


def grammatical(completions: Sequence[Any], **columns: Any) -> list[float]:
    """1 for a sentence of the controlled language, else half the share of neighbours that may be neighbours in it.

    The language: the [QUALITY...] ACTOR VERB in the [QUALITY...] PLACE. Beginning and end have neighbours too.
    """
    return [_grammatical(re.findall(r"\w+", text.casefold())) for text in texts(completions)]


def _grammatical(words: Sequence[str]) -> float:
    kinds = [_CLASS.get(word, "?") for word in words]
    told = [kind for kind in kinds if kind not in ("quality", "article")]
    bonds = [after in _FOLLOWS.get(before, ()) for before, after in pairwise(["", *kinds, ""])]
    whole = all(bonds) and told == ["actor", "verb", "in", "place"]
    return 1.0 if whole else 0.5 * sum(bonds) / len(bonds)


class Constrained(TextMDP):
    """State: words. Action: a sentence. Reward: their coverage, their order, grammar, and the length of the sentence.

    The words are an actor, a verb, a place, and now and then a quality of the first; the sentence is to use each of
    them, in this order: `dog runs park` wants `the dog runs in the park`. Data: generated here.

    Args:
        words: of each class that are in use, 2 to 8.
        quality: probability that a quality is among the words.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Constrained-v0"
    description = "one grammatical sentence that uses all of the given words (coverage, order, grammar, length)"
    rewards: ClassVar[Mapping[str, float]] = {
        "coverage": 1.0,
        "keyword_order": 0.5,
        "rlalign.envs.builtin.language.constrained:grammatical": 1.0,
        "rlalign.envs.builtin.texts:brevity": 0.5,
    }
    gold_score = 2.5

    def __init__(self, *, words: int = 4, quality: float = 0.5, seed: int = 0, **kwargs: Any) -> None:
        if not 0 <= quality <= 1:
            raise UserError(f"Constrained: quality is {quality}, a probability lies in [0, 1]")
        self.words = corpora.within("Constrained", "words", words, 2, len(_WORDS["actor"]))

        def make(rng: np.random.Generator) -> dict[str, Any]:
            asked = [_WORDS[kind][rng.integers(words)] for kind in _JOINED]
            asked = asked if rng.random() < quality else asked[1:]
            answer = f"the {' '.join(asked[:-1])} in the {asked[-1]}"
            return {"prompt": f"Use: {' '.join(asked)}\nSentence:", "keywords": asked, "answer": answer}

        sizes = {"max_prompt": 64, "max_new": (12, 56)}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the language and of the prompt."""
        asked = [word for kind in _JOINED for word in _WORDS[kind][: self.words]]
        return WordTokenizer(["Use:", "Sentence:", "\n", "the", "in", *asked])
