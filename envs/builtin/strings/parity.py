"""Parity-v0: the parity of the number of ones in a string of bits. The one-bit answer depends on every input bit."""

from __future__ import annotations

from typing import Any

from rlalign.envs.builtin.strings.string_task import StringTask


class Parity(StringTask):
    """Parity of a string of bits.

    A policy that has learned only the form of an answer is correct half of the time. It stays there once its entropy
    is low. An entropy bonus, `--objective.regularizer.entropy-coef 0.1`, lets it learn the task
    (benchmarks/environments.py).

    State: the prompt `0110>` and the characters so far.
    Action: a character.
    Reward: 1 for the correct bit in its position, plus 1 for an exact match.
    Data: random strings, no license.
    Splits: disjoint by content.

    Args:
        alphabet: the letters of the random strings; by default 01. Only `1` is counted; other letters have no effect.
        min_length: least number of letters, by default 2; the number is drawn uniformly.
        max_length: largest number of letters, by default 7.
        kwargs: `seed` of the family of tasks; for the others see TextMDP.
    """

    id = "rlalign/Parity-v0"
    description = "odd or even number of ones in a string of bits: procedural, exact"
    answer_characters = "01"

    def __init__(self, *, alphabet: str = "01", min_length: int = 2, max_length: int = 7, **kwargs: Any) -> None:
        defaults: dict[str, Any] = {"max_new": 3}  # the bit, EOS, and one id of room (see StringTask)
        super().__init__(alphabet=alphabet, min_length=min_length, max_length=max_length, **defaults | kwargs)

    @staticmethod
    def answer(text: str) -> str:
        """Return 1 for an odd number of ones, else 0."""
        return str(text.count("1") % 2)
