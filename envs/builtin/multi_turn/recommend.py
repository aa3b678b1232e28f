"""Recommend-v0: find the title that a user with a hidden taste likes best; the user says what he would rather have.

The rewards stand here too: plain functions that read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Task, Tokenizer

_MOODS = ("dark", "light", "odd")
_TOPICS = ("war", "love", "space")
_LETTERS = "abcdefghi"


def hit(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the favourite was recommended."""
    return [float(s.get("rank") == 1) for s in state]


def rank(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 / the place that the last recommendation has in the user's order; 0 without one."""
    return [1 / s["rank"] if s.get("rank") else 0.0 for s in state]


def turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The turns that were taken."""
    return [float(s.get("turns", 0)) for s in state]


class Recommend(TextMDP):
    """State: titles, recommendations, what the user said. Action: a word. Reward: 1 hit + 1 / rank - 0.1 a turn.

    Prompt `a) dark war, b) odd love, c) light space`, turns `b` or `odd love`, replies `more light` or `which?`. The
    user puts moods in an order of taste, then topics, and says first what mood, then what topic the favourite has.
    Data: procedural, no licence. Splits: disjoint by candidates and taste.

    Args:
        candidates: titles to choose from, 2 to 9.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Recommend-v0"
    description = "recommend to a user with a hidden taste, who says what he would rather have: multi-turn, procedural"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.recommend:hit": 1.0,
        "rlalign.envs.builtin.multi_turn.recommend:rank": 1.0,
        "rlalign.envs.builtin.multi_turn.recommend:turns": -0.1,
    }
    gold_score = 1.9
    max_prompt = 160
    max_turns = 3
    max_reply = 12

    def __init__(self, *, candidates: int = 3, seed: int = 0, **kwargs: Any) -> None:
        if not 2 <= candidates <= len(_LETTERS):
            raise UserError(f"Recommend: candidates is {candidates}, there may be 2 to {len(_LETTERS)}")

        def make(rng: np.random.Generator) -> dict[str, Any]:
            every = list(product(_MOODS, _TOPICS))
            titles = [every[i] for i in rng.permutation(len(every))[:candidates]]
            moods, topics = rng.permutation(_MOODS).tolist(), rng.permutation(_TOPICS).tolist()
            order = sorted(range(candidates), key=lambda i: (moods.index(titles[i][0]), topics.index(titles[i][1])))
            listed = ", ".join(f"{_LETTERS[i]}) {mood} {topic}" for i, (mood, topic) in enumerate(titles))
            names = [f"{mood} {topic}" for mood, topic in titles]
            return {"prompt": listed + "\n", "titles": names, "order": order, "answer": _LETTERS[order[0]]}

        super().__init__(**{"source": ProceduralSource(make, seed=seed), "max_new": (3, 14), **kwargs})
        if self.max_turns < 2:
            raise UserError("Recommend: max_turns is 1, but the user's answers are the point: give at least 2")

    def default_tokenizer(self) -> Tokenizer:
        """The words of titles and replies."""
        return WordTokenizer((*_LETTERS, *_MOODS, *_TOPICS, ")", ",", "more", "which?", "\n"))

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """What the user would rather have, or None when it was the favourite."""
        state["turns"] = state.get("turns", 0) + 1
        titles, order = task.columns["titles"], task.columns["order"]
        said = self.tokenizer.decode(turn_ids).strip().lower()
        named = [i for i, title in enumerate(titles) if said in (_LETTERS[i], title)]
        if not named:
            return self.tokenizer.encode("which?\n")
        state["rank"] = order.index(named[0]) + 1
        if state["rank"] == 1:
            return None
        offered, best = titles[named[0]].split(), titles[order[0]].split()
        wanted = next(b for a, b in zip(offered, best, strict=True) if a != b)
        return self.tokenizer.encode(f"more {wanted}\n")
