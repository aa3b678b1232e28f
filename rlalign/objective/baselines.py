"""What is subtracted from the return: `f(returns [N], batch) -> [N]` or `[N, T]`.

A baseline that does not depend on the row's own completion leaves the expected gradient unchanged, for
E[b · grad log pi(a|s)] = 0 (Williams 1992). Those that look at their own sample are biased, by a factor at best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective.batch import Batch
from rlalign.objective.groups import Groups


def none(returns: Tensor, batch: Batch) -> Tensor:
    """b = 0. Exact."""
    return torch.zeros_like(returns)


def ema(returns: Tensor, batch: Batch) -> Tensor:
    """b = moving average of earlier batches' mean returns. Exact.

    The first batch has no earlier one: there it is the mean of the other rows of the batch, which is exact too.
    """
    if batch.ema is not None:
        return torch.full_like(returns, batch.ema)
    return _whole(batch, returns).others(returns)


def batch_mean(returns: Tensor, batch: Batch) -> Tensor:
    """b = mean of the batch, the own sample included. Exactly (N-1)/N of the gradient for N independent rows."""
    return _whole(batch, returns).mean(returns)


def value(returns: Tensor, batch: Batch) -> Tensor:
    """b_t = V(s_t) at rollout, [N, T]. Exact for any V."""
    return batch.need("old_values", "baseline value")


def greedy(returns: Tensor, batch: Batch) -> Tensor:
    """b = reward of the greedy completion of the same prompt (ReMax, arXiv 2310.10505). Exact."""
    return batch.need("greedy_rewards", "baseline greedy").to(returns.dtype)


def group_mean(returns: Tensor, batch: Batch) -> Tensor:
    """b = mean of the group, the own sample included (GRPO, arXiv 2402.03300). Exactly (G-1)/G of the gradient."""
    return _groups(batch, returns).mean(returns)


def leave_one_out(returns: Tensor, batch: Batch) -> Tensor:
    """b_i = Σ_{j≠i} r_j / (G-1) (RLOO, arXiv 2402.14740). Exact. A row without companions gets its own return."""
    return _groups(batch, returns).others(returns)


def length_weighted_group_mean(returns: Tensor, batch: Batch) -> Tensor:
    """b = Σ l_i r_i / Σ l_i over the group, l the completion's tokens (OPO, arXiv 2505.23585).

    The variance-optimal baseline when a completion's squared score grows with its length. The own sample votes, with a
    weight that depends on its length: biased.
    """
    groups = _groups(batch, returns)
    length = batch.action_mask.sum(1).to(returns.dtype)
    return groups.sum(length * returns) / groups.sum(length).clamp(min=1)


def _groups(batch: Batch, like: Tensor) -> Groups:
    assert batch.in_baseline is not None  # prepare() fills it in
    return Groups.of(batch.group_ids, batch.in_baseline, like.dtype)


def _whole(batch: Batch, like: Tensor) -> Groups:
    assert batch.in_baseline is not None
    return Groups.of(torch.zeros_like(batch.group_ids), batch.in_baseline, like.dtype)
