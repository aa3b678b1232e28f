"""The baseline axis: the number that is subtracted from the return, `f(returns [N], batch) -> [N]` or `[N, T]`.

A baseline that does not depend on the row's own completion leaves the expected gradient unchanged, because
E[b · grad log pi(a|s)] = 0 (Williams 1992). A baseline that includes the row's own return is biased, by a factor at
best. "Exact" and the factors below are those of the expected gradient of N or G independent rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective.batch import Batch
from rlalign.objective.groups import Groups
from rlalign.objective.registries import baseline


@baseline("none")
def none(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = 0. Exact."""
    return torch.zeros_like(returns)


@baseline("ema")
def ema(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = moving average of the mean returns of earlier batches. Exact.

    The first batch has no earlier one: its baseline is the mean of the other rows of the batch, which is exact too.
    """
    if batch.ema is not None:
        return torch.full_like(returns, batch.ema)
    return _batch_as_group(batch, returns).others(returns)


@baseline("batch_mean")
def batch_mean(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = mean of the batch, own return included. Exactly (N-1)/N of the gradient for N independent rows."""
    return _batch_as_group(batch, returns).mean(returns)


@baseline("value")
def value(returns: Tensor, batch: Batch) -> Tensor:
    """Return b_t = V(s_t) at rollout, [N, T]. Exact for any V."""
    return batch.need("old_values", "baseline value")


@baseline("greedy")
def greedy(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = reward of the greedy completion of the same prompt (ReMax, arXiv 2310.10505). Exact."""
    return batch.need("greedy_rewards", "baseline greedy").to(returns.dtype)


@baseline("group_mean", compares_group=True)
def group_mean(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = mean of the group, own return included (GRPO, arXiv 2402.03300). Exactly (G-1)/G of the gradient."""
    return _groups(batch, returns).mean(returns)


@baseline("leave_one_out", compares_group=True)
def leave_one_out(returns: Tensor, batch: Batch) -> Tensor:
    """Return b_i = Σ_{j≠i} r_j / (G-1) (RLOO, arXiv 2402.14740). Exact. A single row has its own return as baseline."""
    return _groups(batch, returns).others(returns)


@baseline("length_weighted_group_mean", compares_group=True)
def length_weighted_group_mean(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = Σ l r / Σ l over the group, l the tokens of a completion (OPO, arXiv 2505.23585).

    The variance-optimal baseline if a completion's squared score grows with its length. The own return is included with
    a weight that depends on its length: biased.
    """
    groups = _groups(batch, returns)
    length = batch.action_mask.sum(1).to(returns.dtype)
    return groups.sum(length * returns) / groups.sum(length).clamp(min=1)


def _groups(batch: Batch, like: Tensor) -> Groups:
    assert batch.in_baseline is not None  # prepare() fills it in
    return Groups.of(batch.group_ids, batch.in_baseline, like.dtype)


def _batch_as_group(batch: Batch, like: Tensor) -> Groups:
    assert batch.in_baseline is not None
    return Groups.single(batch.in_baseline, like.dtype)
