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

    Args:
        alphabet: the letters of the random strings; by default abcd.
        min_length: least number of letters, by default 2; the number is drawn uniformly.
        max_length: largest number of letters, by default 4.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Reverse-v0"
    description = "reverse a random string: procedural, exact, learned from scratch in a minute"

    @staticmethod
    def answer(text: str) -> str:
        """Return the string in reverse order."""
        return text[::-1]
