"""What the advantage is divided by. Each changes the expected gradient; the oracle says how.

`scale(objective, advantages [N, T], returns [N], batch) -> [N, T]`. Where there is no spread the result is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective.batch import Batch
from rlalign.objective.groups import Groups
from rlalign.objective.spec import Objective


def scale(objective: Objective, advantages: Tensor, returns: Tensor, batch: Batch) -> Tensor:
    """Divide advantages [N, T] by the spread or level that the scale axis names; returns [N] are the episodes'."""
    if objective.scale == "none":
        return advantages
    assert batch.in_baseline is not None
    if objective.scale == "whiten":
        return whiten(advantages, batch.action_mask & batch.in_baseline[:, None], objective.scale_eps)
    ids = torch.zeros_like(batch.group_ids) if objective.scale == "batch_std" else batch.group_ids
    groups = Groups.of(ids, batch.in_baseline, returns.dtype)
    if objective.scale == "group_mean":
        return _divide(advantages, _level(returns, groups))
    std = groups.std(returns)
    return _divide(advantages, torch.where(std > 0, std + objective.scale_eps, 0))


def whiten(x: Tensor, mask: Tensor, eps: float) -> Tensor:
    """(x - mean) / (std + eps) over the true entries of mask, std with divisor n-1; 0 elsewhere and without spread."""
    inside = x[mask]
    if len(inside) < 2 or bool((inside == inside[0]).all()):
        return torch.zeros_like(x)
    return torch.where(mask, (x - inside.mean()) / (inside.std() + eps), 0)


def _level(returns: Tensor, groups: Groups) -> Tensor:
    """Mean return of the group: A = (r - m)/m and 0 where m = 0 (MaxRL, arXiv 2602.02710), for rewards >= 0."""
    if bool((returns[groups.in_baseline > 0] < 0).any()):
        raise UserError("scale group_mean needs rewards of 0 or more: shift the reward, or use scale none")
    return groups.mean(returns)


def _divide(advantages: Tensor, by: Tensor) -> Tensor:
    return torch.where(by[:, None] > 0, advantages / by[:, None].clamp(min=torch.finfo(by.dtype).tiny), 0)
