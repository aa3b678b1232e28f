"""The check of a custom advantage before a run: its expected update against the exact policy gradient of the return.

The check can be made if the function runs on the oracle's batch: 7 completions of at most two tokens, float64, on the
CPU, with the fields that `rlalign.objective.custom_advantage.visible` lists. It cannot if the function needs more rows
than a group has there, state from outside, or other fields; the reason is then reported. It never blocks a run, since a
bias may be intended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from rlalign.errors import RLAlignError
from rlalign.objective.advantages import compute_advantages
from rlalign.objective.registries import UNCHANGED
from rlalign.objective.spec import Objective
from rlalign.oracle.comparison import Comparison
from rlalign.oracle.mdp import TokenMDP
from rlalign.oracle.rows import compare

_HORIZON = 2  # 7 completions: 84 groups of 3, about a second
_GROUP = 3  # at most; the first size at which the mean of the other samples is not one sample


@dataclass(frozen=True)
class AdvantageCheck:
    """What the oracle found about a custom advantage.

    Attributes:
        function: its name or spec.
        own: comparison of the expected update with the exact gradient; None if it could not be made.
        without: the same without the function.
        reason: why no comparison was made; empty if it was.
        group_size: completions per group.
        horizon: largest number of tokens in a completion.
    """

    function: str
    own: Comparison | None
    without: Comparison | None
    reason: str
    group_size: int
    horizon: int = _HORIZON

    @property
    def sentence(self) -> str:
        """The result in one line."""
        if self.own is None or self.without is None:
            return f"advantage {self.function}: not checked by the oracle: {self.reason}"
        return (
            f"advantage {self.function}: expected update {_described(self.own)} against the policy gradient of the "
            f"return, by the oracle on {self.group_size} samples of at most {self.horizon} tokens; without the "
            f"function {_described(self.without)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        verdicts = {
            "verdict": None if self.own is None else self.own.verdict,
            "verdict_without": None if self.without is None else self.without.verdict,
        }
        return {**asdict(self), **verdicts, "sentence": self.sentence}


def _described(comparison: Comparison) -> str:
    """Return the verdict with its numbers; exact up to a factor, an update has no bias in its direction."""
    numbers = f"cosine {comparison.cosine:.4f}, relative error {comparison.relative_error:.2g}"
    kind = "" if comparison.verdict.startswith(("biased", "zero")) else "unbiased, "
    return f"{kind}{comparison.verdict} ({numbers})"


def check_advantage(objective: Objective, group_size: int) -> AdvantageCheck:
    """Compare the expected update of an objective with a custom advantage with the exact gradient.

    Args:
        objective: with an `advantage` other than none; a policy gradient.
        group_size: of the run. The oracle's groups have at most 3 samples.
    """
    size = min(group_size, _GROUP)
    try:
        if not _repeatable(objective, size):
            reason = "it returned different advantages for equal batches, and the oracle enumerates a pure function"
            return AdvantageCheck(objective.advantage, None, None, reason, size)
        own = compare(objective, group_size=size, horizon=_HORIZON)
    except RLAlignError as error:
        return AdvantageCheck(objective.advantage, None, None, f"on its batch, {error}", size)
    without = compare(replace(objective, advantage=UNCHANGED), group_size=size, horizon=_HORIZON)
    return AdvantageCheck(objective.advantage, own, without, "", size)


def _repeatable(objective: Objective, size: int) -> bool:
    """Return whether the function returns the same advantages twice, on one group."""
    mdp = TokenMDP(horizon=_HORIZON)
    logits = mdp.table(1)
    values = mdp.state_values(logits) if objective.needs_values else None
    group = mdp.batch(logits, reference=mdp.table(2), values=values)[torch.arange(size)]
    first, second = (compute_advantages(objective, group).need("advantages", "the check") for _ in range(2))
    return torch.equal(first, second)
