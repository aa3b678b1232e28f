"""Sort-v0: say the letters of a random string in order."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Sort(StringTask):
    """State: `cab>`. Action: a letter. Reward: the share of right places of `abc`, and 1 for all of them.

    Data: random strings, no licence. Splits: disjoint by content. Arguments: see StringTask.
    """

    id = "rlalign/Sort-v0"
    description = "say the letters of a random string in order: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """The letters in the order of their code points."""
        return "".join(sorted(text))
