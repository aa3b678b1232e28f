"""Copy-v0: say a random string again. The least that a memory must do."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Copy(StringTask):
    """State: `abc>`. Action: a letter. Reward: the share of right places of `abc`, and 1 for all of them.

    Data: random strings, no licence. Splits: disjoint by content. Arguments: see StringTask.
    """

    id = "rlalign/Copy-v0"
    description = "say a random string again: procedural, exact"

    @staticmethod
    def answer(text: str) -> str:
        """The string itself."""
        return text
