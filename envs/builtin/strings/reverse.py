"""Reverse-v0: say a random string backwards. Procedural and exact, so that a broken learner shows within a minute."""

from __future__ import annotations

from rlalign.envs.builtin.strings.string_task import StringTask


class Reverse(StringTask):
    """State: `abc>`. Action: a letter. Reward: the share of right places of `cba`, and 1 for all of them.

    Data: random strings, no licence. Splits: disjoint by content. Arguments: see StringTask.
    """

    id = "rlalign/Reverse-v0"
    description = "say a random string backwards: procedural, exact, learnt from scratch in a minute"

    @staticmethod
    def answer(text: str) -> str:
        """The string backwards."""
        return text[::-1]
