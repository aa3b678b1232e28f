"""Dialogue-v0: customer service. A customer says what is wrong; the agent finds out what is wanted, and does it.

The customer is a script: it answers questions by their words, and is content when the remedy that it wants is named
together with its order. The rewards stand here too: plain functions that read the episode's `state` and turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.assets import wheel_member
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import WordTokenizer
from rlalign.types import Task, Tokenizer

_REMEDIES = ("refund", "repair", "replace")
_ITEMS = ("lamp", "coat", "desk", "ring", "chair", "watch", "radio", "bike")
_GREETINGS = ("hi", "hello")
_SCRIPT = ", . ? \n my is broken please help no not that order sorry what and which remedy thanks"
_POLITE = re.compile(r"\b(?:please|thanks?|thank you|sorry|welcome|happy to)\b")
_LONGEST = 40  # characters of an opening from real conversations


def goal(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the customer got what it wanted, for the order that it meant; half for the remedy alone."""
    return [s.get("goal", 0.0) for s in state]


def extra_turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The agent's turns beyond the two that it takes to ask and to act."""
    return [float(max(0, s.get("turns", 0) - 2)) for s in state]


def polite(turns: list[list[str]], state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The share of turns with a courteous word, as far as the goal was reached: courtesy alone helps nobody."""
    shares = [sum(bool(_POLITE.search(said.lower())) for said in spoken) / max(len(spoken), 1) for spoken in turns]
    return [share * reached for share, reached in zip(shares, goal(state), strict=True)]


def chitchat_openings() -> list[str]:
    """The different short first messages of the conversations of chitchat-dataset (MIT), a pinned wheel."""
    with wheel_member("chitchat-dataset").open(encoding="utf-8") as file:
        conversations = json.load(file)
    found: dict[str, None] = {}
    for conversation in conversations.values():
        first = next((m["text"] for block in conversation["messages"] for m in block), "")
        text = " ".join(first.split())
        if 0 < len(text.encode()) <= _LONGEST:
            found[text] = None
    return list(found)


class Dialogue(TextMDP):
    """State: the conversation. Action: a word. Reward: 1 goal + 0.1 politeness - 0.05 a turn beyond two.

    The customer opens with `hi, my lamp is broken.`. A question (`?`) about the order is answered by its number, any
    other by the remedy that is wanted; `which remedy and which order?` asks for both. A turn that names a remedy and a
    number is the agent's deed: the right one ends the conversation. Data: procedural, no licence; openings="chitchat"
    puts real first messages (chitchat-dataset, MIT) in front. Splits: disjoint by opening, item, remedy and order.

    Args:
        openings: "scripted", or "chitchat", for which the tokenizer is bytes unless another is given.
        orders: numbers of orders, from 1.
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
        if openings not in ("scripted", "chitchat"):
            raise UserError(f"Dialogue has no openings '{openings}': there are scripted and chitchat")
        if not 2 <= orders <= 1000:
            raise UserError(f"Dialogue: orders is {orders}, there may be 2 to 1000")
        self.openings, self.orders = openings, orders
        greetings, pause = (_GREETINGS, ", ") if openings == "scripted" else (chitchat_openings(), "\n")

        def make(rng: np.random.Generator) -> dict[str, Any]:
            greeting, item, remedy = (words[rng.integers(len(words))] for words in (greetings, _ITEMS, _REMEDIES))
            order = int(rng.integers(1, orders + 1))
            return {"prompt": f"{greeting}{pause}my {item} is broken.\n", "remedy": remedy, "order": order}

        sizes = {"max_new": (10, 48) if openings == "scripted" else 48}  # words, bytes
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})
        if self.max_turns < 2:
            raise UserError("Dialogue: max_turns is 1, but the customer's answers are the point: give at least 2")

    def default_tokenizer(self) -> Tokenizer:
        """The words of the script; bytes where openings are real."""
        if self.openings == "chitchat":
            return super().default_tokenizer()
        numbers = (str(number) for number in range(1, self.orders + 1))
        return WordTokenizer((*_GREETINGS, *_ITEMS, *_REMEDIES, *_SCRIPT.split(" "), *numbers))

    def reference_turns(self, task: Task) -> list[str]:
        """One question for both, and the deed."""
        remedy, order = task.columns["remedy"], task.columns["order"]
        return ["sorry, which remedy and which order?", f"thanks, {remedy} order {order}."]

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """The customer's answer, or None when it is content."""
        state["turns"] = state.get("turns", 0) + 1
        state.setdefault("goal", 0.0)
        said = self.tokenizer.decode(turn_ids).lower()
        remedy, order = task.columns["remedy"], task.columns["order"]
        named = [word for word in _REMEDIES if word in said]
        numbers = re.findall(r"[0-9]+", said)
        if named == [remedy]:
            if numbers == [str(order)]:
                state["goal"] = 1.0
                return None
            state["goal"] = 0.5
        return self.tokenizer.encode(self._answer(said, bool(named), remedy, order) + "\n")

    @staticmethod
    def _answer(said: str, acted: bool, remedy: str, order: int) -> str:
        if acted:
            return "no, not that."
        if "?" not in said:
            return "please help."
        about_order = "order" in said or "number" in said
        about_wish = any(word in said for word in ("what", "how", "remedy")) or not about_order
        return " ".join([remedy] * about_wish + [f"order {order}"] * about_order) + "."
