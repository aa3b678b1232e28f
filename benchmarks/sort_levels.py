"""Levels of one task for curriculum.py: sort a string of a given length, with a reward for the exact answer alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rlalign.envs.builtin.strings.sort import Sort


class Level(Sort):
    """Sorting of strings of one length. Splits share strings: a short length has too few to divide.

    Args:
        length: number of letters.
        kwargs: see Sort.
    """

    rewards: ClassVar[Mapping[str, float]] = {"exact_match": 1.0}
    gold_score = 1.0

    def __init__(self, *, length: int = 2, **kwargs: Any) -> None:
        super().__init__(alphabet="abc", min_length=length, max_length=length, **kwargs)
        self.source.distinct = False  # type: ignore[attr-defined]  # a ProceduralSource
