"""Constrained-v0: one sentence with all of the given words, as in CommonGen, in a small controlled language.

benchmarks/environments.py measures untrained and trained small policies. Warm start: 100 steps with
`--supervised.align-interval 1`, then an entropy bonus, `--objective.regularizer.entropy-coef 0.05`, which keeps the
policy from becoming deterministic too early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_integer
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.rewards.text import text_of
from rlalign.tokenizers import WordTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Tokenizer

_WORDS: Mapping[str, tuple[str, ...]] = {
    "article": ("the",),
    "quality": ("small", "old", "happy", "tired", "young", "quiet", "big", "kind"),
    "actor": ("dog", "girl", "farmer", "horse", "boy", "cat", "doctor", "bird"),
    "verb": ("sings", "runs", "sleeps", "waits", "dances", "plays", "eats", "works"),
    "in": ("in",),
    "place": ("park", "garden", "kitchen", "street", "forest", "school", "barn", "city"),
}
# Word class -> classes that may follow it; "" is the beginning and the end of a sentence.
_FOLLOWERS = {
    "": ("article",),
    "article": ("quality", "actor", "place"),
    "quality": ("quality", "actor", "place"),
    "actor": ("verb",),
    "verb": ("in",),
    "in": ("article",),
    "place": ("",),
}
_CLASS_OF = {word: kind for kind, words in _WORDS.items() for word in words}
_KEYWORD_CLASSES = ("quality", "actor", "verb", "place")


def grammatical(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return 1 for each sentence of the controlled language, else half the share of valid pairs of neighbors.

    The language is: the [QUALITY...] ACTOR VERB in the [QUALITY...] PLACE. The pairs include the beginning with the
    first word, and the last word with the end.
    """
    return [_grammatical(re.findall(r"\w+", text_of(c).casefold())) for c in completions]


def _grammatical(words: Sequence[str]) -> float:
    classes = [_CLASS_OF.get(word, "?") for word in words]
    valid_pairs = [after in _FOLLOWERS.get(before, ()) for before, after in pairwise(["", *classes, ""])]
    # Valid pairs alone also admit "the park" and sentences without an actor, so that the skeleton is compared too.
    skeleton = [kind for kind in classes if kind not in ("quality", "article")]
    is_sentence = all(valid_pairs) and skeleton == ["actor", "verb", "in", "place"]
    return 1.0 if is_sentence else 0.5 * sum(valid_pairs) / len(valid_pairs)


class Constrained(TextMDP):
    """Sentences that use all given words.

    The words are an actor, a verb, a place and, with probability `quality`, a quality of the actor. The sentence has to
    use each of them in this order: the answer to `dog runs park` is `the dog runs in the park`.

    State: the words, and the sentence so far.
    Action: a word.
    Reward: 1 · coverage of the words, plus 0.5 · their order, plus 1 · grammar, plus 0.5 · brevity.
    Data: generated here.

    Args:
        words: number of words of each class in use, 2 to 8.
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
        check_range("Constrained quality", quality, least=0, most=1, fix="use a probability")
        self.words = check_integer("Constrained words", words, 2, len(_WORDS["actor"]))

        def make(rng: np.random.Generator) -> dict[str, Any]:
            keywords = [_WORDS[kind][rng.integers(words)] for kind in _KEYWORD_CLASSES]
            # The quality is drawn first and then dropped, so that each task makes the same number of draws.
            if rng.random() >= quality:
                keywords = keywords[1:]
            answer = f"the {' '.join(keywords[:-1])} in the {keywords[-1]}"
            return {"prompt": f"Use: {' '.join(keywords)}\nSentence:", "keywords": keywords, "answer": answer}

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": 64,
            "max_new": (12, 56),
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the language and of the prompt."""
        words_in_use = [word for kind in _KEYWORD_CLASSES for word in _WORDS[kind][: self.words]]
        return WordTokenizer(["Use:", "Sentence:", "\n", "the", "in", *words_in_use])
