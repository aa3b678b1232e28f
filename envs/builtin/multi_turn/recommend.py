"""Recommend-v0: find the title that a user with a hidden taste likes best. The user replies with a preferred property.

The module also defines the rewards: functions that read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_several_turns
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Task, Tokenizer

_MOODS = ("dark", "light", "odd")
_TOPICS = ("war", "love", "space")
_LETTERS = "abcdefghi"


def hit(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each episode that recommended the favorite."""
    return [float(s.get("rank") == 1) for s in state]


def rank(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the reciprocal rank of the last recommendation in the user's order; 0 without a recommendation."""
    return [1 / s["rank"] if s.get("rank") else 0.0 for s in state]


def turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the number of turns of each episode."""
    return [float(s.get("turns", 0)) for s in state]


class Recommend(TextMDP):
    """Recommendation to a user with a hidden taste.

    The prompt is `a) dark war, b) odd love, c) light space`, a turn is `b` or `odd love`, and the replies are
    `more light` or `which?`. The user ranks titles by mood, then by topic. A reply names the favorite's mood if the
    recommendation has another mood, else the favorite's topic.

    State: titles, recommendations and the user's replies.
    Action: a word.
    Reward: 1 for the favorite, plus 1 / rank, minus 0.1 per turn.
    Data: procedural, no license.
    Splits: disjoint by candidates and taste.

    Args:
        candidates: titles to choose from, 2 to 9.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Recommend-v0"
    description = "recommend to a user with a hidden taste, who replies with a preference: multi-turn, procedural"
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
        check_range("Recommend candidates", candidates, least=2, most=len(_LETTERS))

        def make(rng: np.random.Generator) -> dict[str, Any]:
            all_titles = list(product(_MOODS, _TOPICS))
            titles = [all_titles[i] for i in rng.permutation(len(all_titles))[:candidates]]
            moods = rng.permutation(_MOODS).tolist()
            topics = rng.permutation(_TOPICS).tolist()
            # Candidate indices from the favorite down: moods compare first, topics only within a mood.
            order = sorted(range(candidates), key=lambda i: (moods.index(titles[i][0]), topics.index(titles[i][1])))
            names = [f"{mood} {topic}" for mood, topic in titles]
            listing = ", ".join(f"{_LETTERS[i]}) {name}" for i, name in enumerate(names))
            return {"prompt": listing + "\n", "titles": names, "order": order, "answer": _LETTERS[order[0]]}

        defaults: dict[str, Any] = {"source": ProceduralSource(make, seed=seed), "max_new": (3, 14)}
        super().__init__(**defaults | kwargs)
        check_several_turns("Recommend", self.max_turns)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of titles and replies."""
        return WordTokenizer((*_LETTERS, *_MOODS, *_TOPICS, ")", ",", "more", "which?", "\n"))

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the property that the user prefers, or None once the favorite is recommended."""
        state["turns"] = state.get("turns", 0) + 1
        titles = task.columns["titles"]
        order = task.columns["order"]
        text = self.tokenizer.decode(turn_ids).strip().lower()
        recommended = [i for i, title in enumerate(titles) if text in (_LETTERS[i], title)]
        if not recommended:
            return self.tokenizer.encode("which?\n")
        state["rank"] = order.index(recommended[0]) + 1
        if state["rank"] == 1:
            return None
        title = titles[recommended[0]].split()
        favorite = titles[order[0]].split()
        # Mood precedes topic in a title, so that the first difference is the one that matters more to the user.
        preferred = next(better for word, better in zip(title, favorite, strict=True) if word != better)
        return self.tokenizer.encode(f"more {preferred}\n")
