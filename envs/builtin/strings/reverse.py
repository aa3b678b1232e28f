"""Reverse-v0: reverse a random string. Procedural and exact: a broken learner shows within a minute."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Reverse(StringTask):
    """Reversal of a random string.

    State: the prompt `abc>` and the letters so far.
    Action: a letter.
    Reward: the share of correct positions of `cba`, plus 1 for an exact match.
    Data: random strings, no license.
    Splits: disjoint by content.

    Arguments: see StringTask.
    """

    id = "rlalign/Reverse-v0"
    description = "reverse a random string: procedural, exact, learned from scratch in a minute"

    @staticmethod
    def answer(text: str) -> str:
        """Return the string in reverse order."""
        return text[::-1]
