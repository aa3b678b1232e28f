"""Dialogue-v0: customer service. The agent finds out what a customer with a complaint wants, and does it.

The customer is scripted. It answers questions by keywords and is satisfied when a turn names the remedy that it wants
together with its order. The module also defines the rewards: functions that read the episode's `state` and turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.assets import wheel_member
from rlalign.envs.builtin.arguments import check_choice, check_several_turns
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import WordTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Task, Tokenizer

_REMEDIES = ("refund", "repair", "replace")
_ITEMS = ("lamp", "coat", "desk", "ring", "chair", "watch", "radio", "bike")
_GREETINGS = ("hi", "hello")
# Split at single blanks, so that the line break is a word of its own.
_SCRIPT = ", . ? \n my is broken please help no not that order sorry what and which remedy thanks"
_POLITE = re.compile(r"\b(?:please|thanks?|thank you|sorry|welcome|happy to)\b")
_MAX_OPENING = 40  # bytes of an opening from real conversations


def goal(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for the correct remedy and order, 0.5 for the correct remedy alone, else 0."""
    return [s.get("goal", 0.0) for s in state]


def extra_turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the agent's turns beyond the two that it needs to ask and to act."""
    return [float(max(0, s.get("turns", 0) - 2)) for s in state]


def polite(turns: list[list[str]], state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the share of turns with a polite word, times the goal: politeness without a result is worth nothing."""
    values = []
    for episode_turns, goal_value in zip(turns, goal(state), strict=True):
        count = sum(bool(_POLITE.search(turn.lower())) for turn in episode_turns)
        values.append(count / max(len(episode_turns), 1) * goal_value)
    return values


def chitchat_openings() -> list[str]:
    """Return the distinct short first messages of the conversations of chitchat-dataset (MIT), a pinned wheel."""
    with wheel_member("chitchat-dataset").open(encoding="utf-8") as file:
        conversations = json.load(file)
    openings: dict[str, None] = {}  # a dictionary, as an ordered set
    for conversation in conversations.values():
        # `messages` is a list of lists of messages; each of them may be empty.
        first = next((m["text"] for block in conversation["messages"] for m in block), "")
        text = " ".join(first.split())
        if 0 < len(text.encode()) <= _MAX_OPENING:
            openings[text] = None
    return list(openings)


class Dialogue(TextMDP):
    """Customer service with a scripted customer.

    The customer opens with `hi, my lamp is broken.`. The reply to a question (`?`) about the order is its number, the
    reply to any other question the remedy that the customer wants. `which remedy and which order?` asks for both. A
    turn that names a remedy and a number is an action of the agent: the correct one ends the conversation.

    State: the conversation.
    Action: a word.
    Reward: 1 for the goal, plus 0.1 · politeness, minus 0.05 per turn beyond two.
    Data: procedural, no license; openings="chitchat" puts real first messages (chitchat-dataset, MIT) in front.
    Splits: disjoint by opening, item, remedy and order.

    Args:
        openings: "scripted", or "chitchat", whose default tokenizer is bytes.
        orders: largest order number; the smallest is 1.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Dialogue-v0"
    description = "customer service: find out what a scripted customer wants, and do it: multi-turn, procedural"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.dialogue:goal": 1.0,
        "rlalign.envs.builtin.multi_turn.dialogue:extra_turns": -0.05,
        "rlalign.envs.builtin.multi_turn.dialogue:polite": 0.1,
    }
    gold_score = 1.1
    max_prompt = 96
    max_turns = 4
    max_reply = 24

    def __init__(self, *, openings: str = "scripted", orders: int = 9, seed: int = 0, **kwargs: Any) -> None:
        self.openings = check_choice("Dialogue", "openings", openings, ("scripted", "chitchat"))
        check_range("Dialogue orders", orders, least=2, most=1000)
        self.orders = orders
        scripted = openings == "scripted"
        greetings = _GREETINGS if scripted else chitchat_openings()
        separator = ", " if scripted else "\n"

        def make(rng: np.random.Generator) -> dict[str, Any]:
            greeting = greetings[rng.integers(len(greetings))]
            item = _ITEMS[rng.integers(len(_ITEMS))]
            remedy = _REMEDIES[rng.integers(len(_REMEDIES))]
            order = int(rng.integers(1, orders + 1))
            return {"prompt": f"{greeting}{separator}my {item} is broken.\n", "remedy": remedy, "order": order}

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_new": (10, 48) if scripted else 48,  # words, bytes
        }
        super().__init__(**defaults | kwargs)
        check_several_turns("Dialogue", self.max_turns)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the words of the script; bytes for real openings."""
        if self.openings == "chitchat":
            return super().default_tokenizer()
        numbers = (str(number) for number in range(1, self.orders + 1))
        return WordTokenizer((*_GREETINGS, *_ITEMS, *_REMEDIES, *_SCRIPT.split(" "), *numbers))

    def reference_turns(self, task: Task) -> list[str]:
        """Return one question for remedy and order, then the correct action."""
        remedy = task.columns["remedy"]
        order = task.columns["order"]
        return ["sorry, which remedy and which order?", f"thanks, {remedy} order {order}."]

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the customer's answer, or None once the customer is satisfied."""
        state["turns"] = state.get("turns", 0) + 1
        state.setdefault("goal", 0.0)
        turn = self.tokenizer.decode(turn_ids).lower()
        remedy = task.columns["remedy"]
        order = task.columns["order"]
        named_remedies = [word for word in _REMEDIES if word in turn]
        numbers = re.findall(r"[0-9]+", turn)
        # Exactly one remedy and one number: a turn that lists all of them is not an action.
        if named_remedies == [remedy]:
            if numbers == [str(order)]:
                state["goal"] = 1.0
                return None
            state["goal"] = 0.5
        return self.tokenizer.encode(self._answer(turn, bool(named_remedies), remedy, order) + "\n")

    @staticmethod
    def _answer(turn: str, names_remedy: bool, remedy: str, order: int) -> str:
        if names_remedy:
            return "no, not that."
        if "?" not in turn:
            return "please help."
        asks_order = "order" in turn or "number" in turn
        asks_remedy = any(word in turn for word in ("what", "how", "remedy")) or not asks_order
        parts = []
        if asks_remedy:
            parts.append(remedy)
        if asks_order:
            parts.append(f"order {order}")
        return " ".join(parts) + "."
