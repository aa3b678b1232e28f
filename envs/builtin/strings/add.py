"""Add-v0: the sum of two numbers, one digit per action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.tokenizers import CharTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Tokenizer


class Add(TextMDP):
    """Addition of two numbers.

    State: the prompt `7+5=` and the digits so far.
    Action: a character.
    Reward: the share of correct positions of `12`, plus 1 for an exact match.
    Data: random numbers, no license.
    Splits: disjoint by content: no held-out sum occurs in training.

    Args:
        digits: largest number of digits of each summand.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Add-v0"
    description = "the sum of two numbers: procedural, exact"
    rewards: ClassVar[Mapping[str, float]] = {"token_match": 1.0, "exact_match": 1.0}
    gold_score = 2.0

    def __init__(self, *, digits: int = 1, seed: int = 0, **kwargs: Any) -> None:
        # The bound 10 ** digits has to fit into the 64-bit integers that numpy draws.
        check_range("Add digits", digits, least=1, most=15)

        def make(rng: np.random.Generator) -> dict[str, str]:
            a, b = (int(n) for n in rng.integers(10**digits, size=2))
            return {"prompt": f"{a}+{b}=", "answer": str(a + b)}

        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": 2 * digits + 4,
            "max_new": digits + 3,  # the sum has a digit more, then EOS and one id of room (see StringTask)
        }
        super().__init__(**defaults | kwargs)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the digits, plus and equals."""
        return CharTokenizer("0123456789+=")
