"""Parity-v0: whether a string of bits holds an odd number of ones. One bit of answer, and no bit of input to spare."""

from __future__ import annotations

from typing import Any

from rlalign.envs.builtin.strings.string_task import StringTask


class Parity(StringTask):
    """State: `0110>`. Action: a character. Reward: 1 for the right bit in its place, 1 for no more than it.

    A policy that only knows what an answer looks like is right half of the time, and stays there when it grows certain:
    an entropy bonus, `--objective.regularizer.entropy-coef 0.1`, takes it further (benchmarks/environments.py).
    Data: random strings, no licence. Splits: disjoint by content. Arguments: see StringTask; any letter but `1` counts
    for nothing.
    """

    id = "rlalign/Parity-v0"
    description = "odd or even number of ones in a string of bits: procedural, exact"
    says = "01"

    def __init__(self, *, alphabet: str = "01", min_length: int = 2, max_length: int = 7, **kwargs: Any) -> None:
        sizes = {"max_new": 3}
        super().__init__(alphabet=alphabet, min_length=min_length, max_length=max_length, **{**sizes, **kwargs})

    @staticmethod
    def answer(text: str) -> str:
        """1 for an odd number of ones, else 0."""
        return str(text.count("1") % 2)
