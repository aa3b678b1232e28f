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

    Arguments: see StringTask.
    """

    id = "rlalign/Copy-v0"
    description = "repeat a random string: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """Return the string unchanged."""
        return text
