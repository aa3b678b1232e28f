"""A row of the table of metric keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_PLACEHOLDERS = {
    # a component that occurs twice has its parameters in its name: bleu[answer=a/b]
    "NAME": r"[^/\[]+(?:\[.*\])?",
    "KEY": r".+",
    "ENV": r"[^/]+",
    "K": r"\d+",
}


@dataclass(frozen=True)
class Metric:
    """A metric key, or a pattern of keys.

    Attributes:
        key: the key; a word in capitals is a placeholder.
        meaning: the quantity, with its unit and range.
        when: the runs, steps or evaluations that have the key; empty: all.
    """

    key: str
    meaning: str
    when: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The regular expression of the keys that this row describes."""
        words = re.split(r"(\b[A-Z]+\b)", self.key)
        return re.compile("".join(_PLACEHOLDERS.get(word) or re.escape(word) for word in words))

    @property
    def text(self) -> str:
        """The meaning, and when the key is present."""
        return f"{self.meaning} ({self.when})" if self.when else self.meaning
