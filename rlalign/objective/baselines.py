"""The baseline axis: the number that is subtracted from the return, `f(returns [N], batch) -> [N]` or `[N, T]`.

A baseline that does not depend on the row's own completion leaves the expected gradient unchanged, because
E[b · grad log pi(a|s)] = 0 (Williams 1992). A baseline that includes the row's own return is biased, by a factor at
best. "Exact" and the factors below are those of the expected gradient of N or G independent rows. Rows outside
`batch.in_baseline` enter no statistic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective.batch import Batch
from rlalign.objective.groups import Groups
from rlalign.objective.registries import baseline


@baseline("none")
def none(returns: Tensor, batch: Batch) -> Tensor:
    """Return b = 0, [N].

    The expected gradient is exact.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; not read.
    """
    return torch.zeros_like(returns)


@baseline("ema")
def ema(returns: Tensor, batch: Batch) -> Tensor:
    """Return the moving average of the mean returns of earlier batches, [N].

    After each batch `ObjectiveState.update` moves the average. d is `Objective.ema_decay`::

        b = ema,   then   ema ← d · ema + (1 - d) · mean return of the batch

    The first batch has no earlier one: its baseline is the mean of the other rows of the batch. The expected gradient
    is exact in both cases (Williams 1992).

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `ema`, and `in_baseline` in the first batch.
    """
    if batch.ema is not None:
        return torch.full_like(returns, batch.ema)
    return _batch_as_group(batch, returns).others(returns)


@baseline("batch_mean")
def batch_mean(returns: Tensor, batch: Batch) -> Tensor:
    """Return the mean return of the batch, own return included, [N].

    ::

        b = (1/N) Σ_j R_j

    The expected gradient is exactly (N-1)/N of the gradient for N independent rows.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `in_baseline`.
    """
    return _batch_as_group(batch, returns).mean(returns)


@baseline("value")
def value(returns: Tensor, batch: Batch) -> Tensor:
    """Return the value of the state before each token at rollout, b_t = V(s_t), [N, T].

    The expected gradient is exact for any V.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `old_values`.

    Raises:
        UserError: the batch has no `old_values`.
    """
    return batch.need("old_values", "baseline value")


@baseline("greedy")
def greedy(returns: Tensor, batch: Batch) -> Tensor:
    """Return the reward of the greedy completion of the same prompt, [N] (ReMax, arXiv 2310.10505).

    The expected gradient is exact: the greedy completion does not depend on the sampled one.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `greedy_rewards`.

    Raises:
        UserError: the batch has no `greedy_rewards`.
    """
    return batch.need("greedy_rewards", "baseline greedy").to(returns.dtype)


@baseline("group_mean", compares_group=True)
def group_mean(returns: Tensor, batch: Batch) -> Tensor:
    """Return the mean return of the row's group, own return included, [N] (GRPO, arXiv 2402.03300).

    ::

        b = (1/G) Σ_{j in group} R_j

    The expected gradient is exactly (G-1)/G of the gradient for a group of G independent rows.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `group_ids` and `in_baseline`.
    """
    return _groups(batch, returns).mean(returns)


@baseline("leave_one_out", compares_group=True)
def leave_one_out(returns: Tensor, batch: Batch) -> Tensor:
    """Return the mean return of the other rows of the group, [N] (RLOO, arXiv 2402.14740).

    ::

        b_i = Σ_{j≠i} R_j / (G-1)

    The expected gradient is exact. A group of a single row has its own return as baseline, so that its advantage is 0.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `group_ids` and `in_baseline`.
    """
    return _groups(batch, returns).others(returns)


@baseline("length_weighted_group_mean", compares_group=True)
def length_weighted_group_mean(returns: Tensor, batch: Batch) -> Tensor:
    r"""Return the mean return of the group weighted by length, own return included, [N] (OPO, arXiv 2505.23585).

    .. math:: b = \frac{\sum_j l_j R_j}{\sum_j l_j}

    l_j counts the policy's tokens of completion j. This is the baseline of least variance if a completion's squared
    score grows with its length. The weight of the own return depends on its length, so that the expected gradient is
    biased.

    Args:
        returns: float [N], returns of the episodes, KL and length penalties included.
        batch: a prepared batch; reads `group_ids`, `in_baseline` and `action_mask`.
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
