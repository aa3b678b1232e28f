"""Add-v0: the sum of two numbers, digit by digit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Tokenizer


class Add(TextMDP):
    """State: `7+5=`. Action: a character. Reward: the share of right places of `12`, and 1 for all of them.

    Data: random numbers, no licence. Splits: disjoint by content, so held-out sums were never seen.

    Args:
        digits: of each number at most.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Add-v0"
    description = "the sum of two numbers: procedural, exact"
    rewards: ClassVar[Mapping[str, float]] = {"token_match": 1.0, "exact_match": 1.0}
    gold_score = 2.0

    def __init__(self, *, digits: int = 1, seed: int = 0, **kwargs: Any) -> None:
        if not 1 <= digits <= 15:
            raise UserError(f"Add: digits is {digits}, there may be 1 to 15")

        def make(rng: np.random.Generator) -> dict[str, str]:
            a, b = (int(n) for n in rng.integers(10**digits, size=2))
            return {"prompt": f"{a}+{b}=", "answer": str(a + b)}

        sizes = {"max_prompt": 2 * digits + 4, "max_new": digits + 3}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """Digits, plus and equals."""
        return CharTokenizer("0123456789+=")
