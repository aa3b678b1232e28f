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

    Arguments: see StringTask.
    """

    id = "rlalign/Sort-v0"
    description = "sort the letters of a random string: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """Return the letters in the order of their code points."""
        return "".join(sorted(text))
