"""Alignment-v0: say something that means what the input means. State, action and reward of the LLMAR seed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar

from rlalign.envs.mdp import TextMDP
from rlalign.envs.sources import ListSource

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


def sentences() -> list[dict[str, str]]:
    """320 plain sentences: who, what, where."""
    return [{"prompt": f"{who} {does} {where}."} for who, does, where in product(_WHO, _DOES, _WHERE)]


class Alignment(TextMDP):
    """State s: the input text. Action a: the output text. Reward: the cosine of their mean embeddings,

        r(s, a) = cos(mean_i E[s_i], mean_j E[a_j]),

    with E the policy's input embeddings as they were at the start; the length component keeps outputs from being empty.

    Args:
        source: built-in sentences, or any task source.
        kwargs: see TextMDP.
    """

    id = "rlalign/Alignment-v0"
    description = "say something that means what the input means (cosine of mean embeddings)"
    rewards: ClassVar[Mapping[str, float]] = {"embedding_cosine": 1.0, "length?target=12": 0.1}
    max_prompt = 128
    max_new = 16

    def __init__(self, *, source: Any = None, **kwargs: Any) -> None:
        super().__init__(source=ListSource(sentences()) if source is None else source, **kwargs)
