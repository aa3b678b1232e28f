"""Tools-v0: answer a question with the help of a calculator and a price list.

The module also defines the rewards: functions that read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_choice, check_several_turns
from rlalign.envs.builtin.multi_turn.calculator import calculate, format_number
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Task, Tokenizer

_THINGS = ("lamp", "desk", "coat", "ball", "ring", "boat")
_KINDS = ("price", "product", "total")


def exact(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each episode whose final number is correct."""
    return [float(s.get("right", False)) for s in state]


def answered(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each episode that ended with a number, correct or not."""
    return [float("right" in s) for s in state]


def calls(state: list[dict[str, Any]], tools: list[list[str]], **columns: Any) -> list[float]:
    """Return the calls, malformed ones included, beyond the number that each question needs."""
    return [float(max(0, s.get("calls", 0) - len(needed))) for s, needed in zip(state, tools, strict=True)]


class Tools(TextMDP):
    """Questions that need a calculator or a price list.

    The prompt `lamp?` asks for a price, `3*lamp?` for that of several, `24*7?` for a product. The turn `find lamp`
    reads a price list, which no prompt contains and which differs between tasks. The turn `calc 24*7` calls exact
    arithmetic. A number ends the episode. The reply to any other turn is `?`.

    State: question, calls and results.
    Action: a character.
    Reward: 1 for the exact answer, plus 0.1 for any answer, minus 0.05 per needless call.
    Data: procedural, no license.
    Splits: disjoint by content.

    Args:
        kinds: kinds of questions, of "price", "product" and "total", joined by commas.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Tools-v0"
    description = "answer questions with a calculator and a price list: multi-turn, procedural"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.tools:exact": 1.0,
        "rlalign.envs.builtin.multi_turn.tools:answered": 0.1,
        "rlalign.envs.builtin.multi_turn.tools:calls": -0.05,
    }
    gold_score = 1.1
    max_prompt = 24
    max_new = 12
    max_turns = 4
    max_reply = 16

    def __init__(self, *, kinds: str = "price,product,total", seed: int = 0, **kwargs: Any) -> None:
        chosen_kinds = tuple(check_choice("Tools", "kind", kind.strip(), _KINDS) for kind in kinds.split(","))

        def make(rng: np.random.Generator) -> dict[str, Any]:
            prices = {thing: int(rng.integers(2, 10)) for thing in _THINGS}
            thing = str(rng.choice(_THINGS))
            count = int(rng.integers(2, 10))
            kind = str(rng.choice(chosen_kinds))
            if kind == "price":
                question = thing
                answer = prices[thing]
                tools = [f"find {thing}"]
            elif kind == "product":
                factor = int(rng.integers(11, 100))
                question = f"{factor}*{count}"
                answer = factor * count
                tools = [f"calc {question}"]
            else:
                question = f"{count}*{thing}"
                answer = count * prices[thing]
                tools = [f"find {thing}", f"calc {count}*{prices[thing]}"]
            return {"prompt": question + "?\n", "prices": prices, "answer": str(answer), "tools": tools}

        defaults: dict[str, Any] = {"source": ProceduralSource(make, seed=seed)}
        super().__init__(**defaults | kwargs)
        check_several_turns("Tools", self.max_turns)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the characters of questions, calls and results."""
        return CharTokenizer("0123456789+-*/%.() ?\n" + "find calc " + "".join(_THINGS))

    def reference_turns(self, task: Task) -> list[str]:
        """Return the calls that the question needs, then its answer."""
        return [*task.columns["tools"], task.columns["answer"]]

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the result of a call, or None after an answer."""
        turn = self.tokenizer.decode(turn_ids).strip()
        if turn.removeprefix("-").isdecimal() and turn.isascii():
            state["right"] = turn == task.columns["answer"]
            return None
        state["calls"] = state.get("calls", 0) + 1
        return self.tokenizer.encode(self._call(turn, task.columns["prices"]) + "\n")

    def _call(self, turn: str, prices: Mapping[str, int]) -> str:
        tool, _, argument = turn.partition(" ")
        if tool == "find":
            return str(prices.get(argument.strip(), "?"))
        value = calculate(argument) if tool == "calc" else None
        result = "?" if value is None else format_number(value)
        # A longer result would be cut at max_reply, which would show another number.
        return result if len(result) < self.max_reply else "?"
