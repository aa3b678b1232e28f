"""GuessNumber-v0: find a hidden number; the environment answers `higher` or `lower`. The multi-turn example.

The rewards stand here too: plain functions with the library's one signature, which read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Task, Tokenizer

_LEAST = 6  # numbers, which make 50 games
_HINTS = {-1: "higher\n", 1: "lower\n", None: "number?\n"}


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the number was found."""
    return [float(s.get("won", False)) for s in state]


def turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The turns that were taken."""
    return [float(s.get("turns", 0)) for s in state]


class GuessNumber(TextMDP):
    """State: guesses and hints. Action: a character. Reward: 1 for the number, -0.1 a turn.

    Prompt `guess 3-8`, turns such as `5`, replies `higher`, `lower` or, to anything else, `number?`. The range lies
    anywhere within 1 to `high`, and as many turns as `high` has bits always suffice, by bisection. Data: procedural, no
    licence. Splits: disjoint by range and number: a held-out game is a new one, its range is not.

    Args:
        high: the largest number of all games; the smallest is 1.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/GuessNumber-v0"
    description = "find a hidden number from the replies 'higher' and 'lower': multi-turn, procedural"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.guess_number:won": 1.0,
        "rlalign.envs.builtin.multi_turn.guess_number:turns": -0.1,
    }
    gold_score = 0.9

    def __init__(self, *, high: int = 9, seed: int = 0, **kwargs: Any) -> None:
        if high < _LEAST:
            raise UserError(f"GuessNumber: high is {high}, but games for three splits need {_LEAST} numbers or more")

        def make(rng: np.random.Generator) -> dict[str, Any]:
            first, last = sorted(rng.choice(high, size=2, replace=False) + 1)
            number = int(rng.integers(first, last + 1))
            return {"prompt": f"guess {first}-{last}\n", "number": number, "answer": str(number)}

        sizes = {"max_prompt": 32, "max_new": len(str(high)) + 1, "max_turns": high.bit_length(), "max_reply": 12}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})
        if self.max_turns < 2:
            raise UserError("GuessNumber: max_turns is 1, but the game is its replies: give at least 2")

    def default_tokenizer(self) -> Tokenizer:
        """The characters of the game."""
        return CharTokenizer("0123456789-\n? ughinserlowmb")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """The hint, or None when the number was found."""
        state["turns"] = state.get("turns", 0) + 1
        text = self.tokenizer.decode(turn_ids).strip()
        guess = int(text) if text.isascii() and text.isdigit() else None
        state["won"] = guess == task.columns["number"]
        if state["won"]:
            return None
        side = None if guess is None else (-1 if guess < task.columns["number"] else 1)
        return self.tokenizer.encode(_HINTS[side])
