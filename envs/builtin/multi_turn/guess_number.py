"""GuessNumber-v0: find a hidden number from the replies `higher` and `lower`. The smallest multi-turn example.

The module also defines the rewards: functions with the library's usual signature that read the episode's `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_several_turns
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import CharTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Task, Tokenizer

_MIN_HIGH = 6  # makes 50 games, enough for three splits
_HIGHER = "higher\n"
_LOWER = "lower\n"
_NOT_A_NUMBER = "number?\n"


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each episode that found the number."""
    return [float(s.get("won", False)) for s in state]


def turns(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the number of turns of each episode."""
    return [float(s.get("turns", 0)) for s in state]


class GuessNumber(TextMDP):
    """Search for a hidden number.

    The prompt is `guess 3-8`, a turn is `5`, and the replies are `higher`, `lower` or, after any other text,
    `number?`. The range lies within 1 to `high`. By bisection, as many turns as `high` has bits always suffice.

    State: the range, guesses and replies.
    Action: a character.
    Reward: 1 for the number, -0.1 per turn.
    Data: procedural, no license.
    Splits: disjoint by range and number: a held-out game does not occur in training, but its range does.

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
        check_range("GuessNumber high", high, least=_MIN_HIGH, fix="use more numbers: three splits of games need them")

        def make(rng: np.random.Generator) -> dict[str, Any]:
            first, last = sorted(rng.choice(high, size=2, replace=False) + 1)
            number = int(rng.integers(first, last + 1))
            return {"prompt": f"guess {first}-{last}\n", "number": number, "answer": str(number)}

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": 32,
            "max_new": len(str(high)) + 1,
            "max_turns": high.bit_length(),
            "max_reply": 12,
        }
        super().__init__(**defaults | kwargs)
        check_several_turns("GuessNumber", self.max_turns)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the characters of the game."""
        return CharTokenizer("0123456789-\n? ughinserlowmb")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the hint, or None once the number is found."""
        state["turns"] = state.get("turns", 0) + 1
        text = self.tokenizer.decode(turn_ids).strip()
        # `isdigit` accepts digits of other scripts and superscripts, of which `int` refuses some.
        guess = int(text) if text.isascii() and text.isdigit() else None
        state["won"] = guess == task.columns["number"]
        if state["won"]:
            return None
        if guess is None:
            return self.tokenizer.encode(_NOT_A_NUMBER)
        return self.tokenizer.encode(_HIGHER if guess < task.columns["number"] else _LOWER)
