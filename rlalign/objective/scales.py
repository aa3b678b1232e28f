"""The scale axis: the number that the advantage is divided by. Each value but `none` changes the expected gradient.

`scale(objective, advantages [N, T], returns [N], batch) -> [N, T]`. Without variation the result of a standard
deviation is exactly 0. The oracle computes the bias of each scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective.batch import Batch
from rlalign.objective.groups import Groups
from rlalign.objective.spec import Objective


def scale(objective: Objective, advantages: Tensor, returns: Tensor, batch: Batch) -> Tensor:
    """Divide advantages by the standard deviation or mean that the scale axis names, float [N, T].

    ::

        none          A
        group_std     A / (std of R over the group + eps)       GRPO, arXiv 2402.03300
        batch_std     A / (std of R over the batch + eps)       Lite PPO, arXiv 2508.08221
        group_mean    A / (mean of R over the group)            MaxRL, arXiv 2602.02710
        whiten        (A - mean of A) / (std of A + eps)        over the batch's tokens, REINFORCE++, arXiv 2501.03262

    R are the returns [N] of the rows in the baseline. std has the divisor n-1. The result is exactly 0 where a std or a
    mean is 0. Each value but `none` changes the expected gradient; `rlalign oracle` computes the bias.

    Args:
        objective: reads `scale` and `scale_eps`.
        advantages: float [N, T], 0 off the mask.
        returns: float [N], the episodes' returns.
        batch: a prepared batch.

    Raises:
        UserError: scale group_mean with a negative return.
    """
    if objective.scale == "none":
        return advantages
    assert batch.in_baseline is not None
    if objective.scale == "whiten":
        return whiten(advantages, batch.action_mask & batch.in_baseline[:, None], objective.scale_eps)
    if objective.scale == "batch_std":
        groups = Groups.single(batch.in_baseline, returns.dtype)
    else:
        groups = Groups.of(batch.group_ids, batch.in_baseline, returns.dtype)
    if objective.scale == "group_mean":
        return _divide(advantages, _mean_return(returns, groups))
    std = groups.std(returns)
    return _divide(advantages, torch.where(std > 0, std + objective.scale_eps, 0))


def whiten(x: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Return (x - mean) / (std + eps) over the true entries of mask, std with divisor n-1; 0 elsewhere; [N, T].

    All entries are 0 if fewer than two are true or all of them are equal.

    Args:
        x: float [N, T].
        mask: bool [N, T].
        eps: added to the standard deviation.
    """
    inside = x[mask]
    # compared with ==, because the std of equal numbers is a rounding error, not 0
    if len(inside) < 2 or bool((inside == inside[0]).all()):
        return torch.zeros_like(x)
    return torch.where(mask, (x - inside.mean()) / (inside.std() + eps), 0)


def _mean_return(returns: Tensor, groups: Groups) -> Tensor:
    """Return the mean return of the group: A = (r - m)/m, 0 if m = 0 (MaxRL, arXiv 2602.02710), for rewards >= 0."""
    included = returns[groups.included > 0]
    if bool((included < 0).any()):
        raise UserError(
            f"scale group_mean: expected rewards of 0 or more, got {included.min():g}; shift the reward, or use scale "
            "none"
        )
    return groups.mean(returns)


def _divide(advantages: Tensor, divisor: Tensor) -> Tensor:
    """Return advantages [N, T] / divisor [N], 0 where the divisor is 0."""
    # the clamp keeps the branch that torch.where discards free of 0/0
    safe = divisor[:, None].clamp(min=torch.finfo(divisor.dtype).tiny)
    return torch.where(divisor[:, None] > 0, advantages / safe, 0)
