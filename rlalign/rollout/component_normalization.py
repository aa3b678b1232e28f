"""Normalization of each reward component within its group, before the weighted sum (GDPO, arXiv 2601.05242)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective.groups import Groups
from rlalign.objective.last_action import on_last_action
from rlalign.rollout.collect import Rollout
from rlalign.types import Scope

_LEAST_STD = 1e-6  # a component with a smaller spread within a group is constant there, up to rounding


def normalize(values: Tensor, group_ids: Tensor, valid: Tensor) -> Tensor:
    """Return z = (c - mean_g c) / std_g c over the valid, finite c [N] of each group, float64 [N].

    0 where c is not valid or finite, and in groups without spread.
    """
    usable = valid & values.isfinite()
    groups = Groups.of(group_ids, usable, torch.float64)
    x = torch.where(usable, values.double(), 0.0)
    count = groups.count().clamp(min=1)
    centered = torch.where(usable, x - groups.sum(x) / count, 0.0)
    std = (groups.sum(centered * centered) / count).sqrt()  # two passes: E[x²] - mean² cancels for a small spread
    return torch.where(std > _LEAST_STD, centered / std.clamp(min=_LEAST_STD), 0.0)


def normalize_components(rollout: Rollout, weights: Mapping[str, float]) -> Rollout:
    """Return the rollout with each episode's reward replaced by Σ weight · z(component), on its last action.

    In a weighted sum of raw components, which is what is logged, the component with the largest spread dominates. Here
    a weight states how much a component counts. Normalization over the batch is left to the objective's scale axis.

    Source: Liu et al., GDPO, arXiv 2601.05242.
    """
    total = torch.zeros(len(rollout), dtype=torch.float64)
    for name, weight in weights.items():
        if weight != 0.0 and name in rollout.components:
            total += weight * normalize(rollout.components[name], rollout.group_ids, rollout.valid)
    return replace(rollout, rewards=on_last_action(total.to(rollout.rewards.dtype), rollout.action_mask))


def check_scopes(scopes: Mapping[str, Scope], weights: Mapping[str, float]) -> None:
    """Raise UserError for weighted rewards per token or turn: normalized per episode, they would lose their place."""
    for name, scope in scopes.items():
        if scope in ("token", "turn") and weights[name] != 0.0:
            raise UserError(
                f"rollout.per_component normalizes whole episodes, and '{name}' is a reward per {scope}; "
                "use only one of them"
            )
