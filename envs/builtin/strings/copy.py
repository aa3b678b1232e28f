"""Copy-v0: repeat a random string. The simplest test of memory."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Copy(StringTask):
    """Repetition of a random string.

    State: the prompt `abc>` and the letters so far.
    Action: a letter.
    Reward: the share of correct positions of `abc`, plus 1 for an exact match.
    Data: random strings, no license.
    Splits: disjoint by content.

    Args:
        alphabet: the letters of the random strings; by default abcd.
        min_length: least number of letters, by default 2; the number is drawn uniformly.
        max_length: largest number of letters, by default 4.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Copy-v0"
    description = "repeat a random string: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """Return the string unchanged."""
        return text
