"""Several rewards on equal terms: each normalised within its group before they are weighted and summed (GDPO)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.rollout.collect import Rollout
from rlalign.types import Scope

_LEAST = 1e-6  # a component that does not vary within a group has nothing to say there


def normalised(values: Tensor, group_ids: Tensor, valid: Tensor) -> Tensor:
    """z = (c - mean_g c) / std_g c over the valid, finite c [N] of each group; 0 where there is none or no spread."""
    known = valid & values.isfinite()
    weight = known.double()
    x = torch.where(known, values.double(), 0.0)
    groups = int(group_ids.max()) + 1

    def summed(rows: Tensor) -> Tensor:
        return torch.zeros(groups, dtype=torch.float64).index_add_(0, group_ids, rows)

    count = summed(weight).clamp(min=1)
    centred = torch.where(known, x - (summed(x) / count)[group_ids], 0.0)
    std = (summed(centred * centred) / count).sqrt()[group_ids]
    return torch.where(std > _LEAST, centred / std.clamp(min=_LEAST), 0.0)


def decoupled(rollout: Rollout, weights: Mapping[str, float]) -> Rollout:
    """The rollout as the learner sees it: each episode's reward is Σ weight · z(component), on its last action.

    The weighted sum of raw components, which is what is logged, lets the component of the largest spread decide alone;
    here a weight says how much a component counts. Normalisation over the batch is left to the objective's scale axis.
    Source: Liu et al., GDPO, arXiv 2601.05242.
    """
    total = torch.zeros(len(rollout), dtype=torch.float64)
    for name, weight in weights.items():
        if weight != 0.0 and name in rollout.components:
            total += weight * normalised(rollout.components[name], rollout.group_ids, rollout.valid)
    columns = torch.arange(rollout.action_mask.shape[1])
    last = torch.where(rollout.action_mask, columns, -1).amax(1)
    rewards = torch.zeros_like(rollout.rewards)
    rewards[torch.arange(len(rollout)), last] = total.to(rewards.dtype)
    return replace(rollout, rewards=rewards)


def refuse_parts(scopes: Mapping[str, Scope], weights: Mapping[str, float]) -> None:
    """Raise UserError for weighted rewards of single tokens or turns: their places would be lost."""
    for name, scope in scopes.items():
        if scope in ("token", "turn") and weights[name] != 0.0:
            raise UserError(
                f"rollout.per_component normalises whole episodes, and '{name}' is a reward of each {scope}: "
                "leave one of them out"
            )
