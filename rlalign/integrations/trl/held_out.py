"""Measures of a policy on held-out pairs: how often its implicit reward prefers the chosen completion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlalign.integrations.trl.pairs import Pair
from rlalign.policies.base import Policy
from rlalign.types import Sampling

_BATCH = 32  # pairs that are scored together


def preference_metrics(policy: Policy, pairs: Sequence[Pair], beta: float) -> dict[str, float]:
    """Return accuracy, margin and loss of the implicit reward beta · log pi/ref on held-out pairs.

    A margin of 0 counts as half an agreement, so that the initial policy has the accuracy 0.5.

    Args:
        policy: with a reference.
        pairs: one or more.
        beta: of the loss.

    Returns:
        `preference/held_out_accuracy`, `preference/held_out_margin` and `preference/held_out_loss`, means over pairs.
    """
    margins = torch.cat([_margins(policy, pairs[i : i + _BATCH], beta) for i in range(0, len(pairs), _BATCH)])
    agreements = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {
        "preference/held_out_accuracy": float(agreements.mean()),
        "preference/held_out_margin": float(margins.mean()),
        "preference/held_out_loss": float(-torch.nn.functional.logsigmoid(margins).mean()),
    }


def _margins(policy: Policy, pairs: Sequence[Pair], beta: float) -> Tensor:
    """Return float64 [n]: the implicit reward of the chosen completion minus that of the rejected one."""
    rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    lengths = torch.tensor([len(prompt) + len(completion) for prompt, completion in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion)
        tokens[row, :length] = torch.tensor([*prompt, *completion])
        mask[row, len(prompt) : length] = True
    with torch.no_grad():
        logprobs = policy.score(tokens, lengths, mask, Sampling()).logprobs
        references = policy.reference_logprobs(tokens, lengths, mask, Sampling())
    log_ratios = (logprobs.double() - references.double()).sum(1).cpu()
    chosen, rejected = log_ratios.chunk(2)
    return beta * (chosen - rejected)
