"""Tools-v0: answer a question with the help of a calculator and a price list.

The rewards stand here too: plain functions that read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.multi_turn.calculator import calculate, shown
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Task, Tokenizer

_THINGS = ("lamp", "desk", "coat", "ball", "ring", "boat")


def exact(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the number that was given as the answer is right."""
    return [float(s.get("right", False)) for s in state]


def answered(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when a number was given as the answer, right or wrong."""
    return [float("right" in s) for s in state]


def calls(state: list[dict[str, Any]], tools: list[list[str]], **columns: Any) -> list[float]:
    """Calls, those that no tool understood included, beyond the number that the question needs."""
    return [float(max(0, s.get("calls", 0) - len(needed))) for s, needed in zip(state, tools, strict=True)]


class Tools(TextMDP):
    """State: question, calls, results. Action: a character. Reward: 1 exact + 0.1 answered - 0.05 a needless call.

    Prompt `lamp?` asks for a price, `3*lamp?` for that of several, `24*7?` for a product. The turn `find lamp` is
    answered from a price list that no prompt shows and every task has anew, `calc 24*7` by exact arithmetic, and a
    number ends the episode. Anything else gets `?`. Data: procedural, no licence. Splits: disjoint by content.

    Args:
        kinds: the questions that are asked, of "price", "product" and "total", joined by commas.
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
        asked = tuple(kind.strip() for kind in kinds.split(","))
        for kind in asked:
            if kind not in ("price", "product", "total"):
                raise UserError(f"Tools: no kind of question '{kind}': there are price, product and total")

        def make(rng: np.random.Generator) -> dict[str, Any]:
            prices = {thing: int(rng.integers(2, 10)) for thing in _THINGS}
            thing, count = str(rng.choice(_THINGS)), int(rng.integers(2, 10))
            kind = str(rng.choice(asked))
            if kind == "price":
                question, answer, tools = thing, prices[thing], [f"find {thing}"]
            elif kind == "product":
                a = int(rng.integers(11, 100))
                question, answer, tools = f"{a}*{count}", a * count, [f"calc {a}*{count}"]
            else:
                question, answer = f"{count}*{thing}", count * prices[thing]
                tools = [f"find {thing}", f"calc {count}*{prices[thing]}"]
            return {"prompt": question + "?\n", "prices": prices, "answer": str(answer), "tools": tools}

        super().__init__(**{"source": ProceduralSource(make, seed=seed), **kwargs})
        if self.max_turns < 2:
            raise UserError("Tools: max_turns is 1, which leaves no turn for a tool: give at least 2")

    def default_tokenizer(self) -> Tokenizer:
        """The characters of questions, calls and results."""
        return CharTokenizer("0123456789+-*/%.() ?\n" + "find calc " + "".join(_THINGS))

    def reference_turns(self, task: Task) -> list[str]:
        """The calls that the question needs, then its answer."""
        return [*task.columns["tools"], task.columns["answer"]]

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """What the tool says, or None when an answer was given."""
        said = self.tokenizer.decode(turn_ids).strip()
        if said.removeprefix("-").isdecimal() and said.isascii():
            state["right"] = said == task.columns["answer"]
            return None
        state["calls"] = state.get("calls", 0) + 1
        return self.tokenizer.encode(self._call(said, task.columns["prices"]) + "\n")

    def _call(self, said: str, prices: Mapping[str, int]) -> str:
        tool, _, argument = said.partition(" ")
        if tool == "find":
            return str(prices.get(argument.strip(), "?"))
        value = calculate(argument) if tool == "calc" else None
        result = "?" if value is None else shown(value)
        return result if len(result) < self.max_reply else "?"
