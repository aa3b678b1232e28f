"""Sort-v0: sort the letters of a random string."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Sort(StringTask):
    """Sorting of the letters of a random string.

    State: the prompt `cab>` and the letters so far.
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

    id = "rlalign/Sort-v0"
    description = "sort the letters of a random string: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """Return the letters in the order of their code points."""
        return "".join(sorted(text))
