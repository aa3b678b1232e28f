"""The reward of each token: the environment's reward, the overlong penalty, and the KL that is added to the reward."""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective.batch import Batch
from rlalign.objective.kl import in_reward, mean_over
from rlalign.objective.last_action import on_last_action
from rlalign.objective.spec import Objective


def token_rewards(objective: Objective, batch: Batch, kl_coef: float) -> Tensor:
    """Return the reward of each token, float [N, T]; 0 off the mask and in rows outside the baseline.

    ::

        r_t = reward of the environment + overlong penalty (on the last token) - kl_coef · KL estimate (kl.where reward)

    A reward per trajectory is placed on its last token.

    Args:
        objective: reads `filter` and `kl`.
        batch: a prepared batch (`checked_batch.prepare`). The KL reads `old_logprobs`, or `sampler_logprobs` if they
        are
            None, so that each epoch sees the same rewards.
        kl_coef: the current beta; `ObjectiveState.kl_coef` during training.

    Raises:
        UserError: a tensor or max_length that an axis needs is missing; the message names it.
    """
    mask = batch.action_mask
    rewards = batch.rewards if batch.rewards.ndim == 2 else on_last_action(batch.rewards, mask)
    rewards = rewards.where(mask, 0)
    filters = objective.filter
    if filters.overlong > 0:
        if batch.max_length < 1:
            raise UserError(
                f"filter.overlong is a share of L_max: expected a batch with max_length of at least 1, got "
                f"{batch.max_length}; use Batch(max_length=...)"
            )
        lengths = mask.sum(1).to(rewards.dtype)
        penalty = overlong_penalty(lengths, batch.max_length, filters.overlong, filters.overlong_penalty)
        rewards = rewards + on_last_action(penalty, mask)
    if objective.kl.where == "reward":
        # the distribution at the start of the update, so that each epoch sees the same rewards
        logprobs = batch.old_logprobs
        if logprobs is None:
            logprobs = batch.need("sampler_logprobs", "KL in the reward")
        start = logprobs
        distance = mean_over(
            batch.references("KL in the reward"), lambda reference: in_reward(objective.kl, start, reference, mask)
        )
        rewards = rewards - kl_coef * distance.to(rewards.dtype)
    in_baseline = batch.in_baseline if batch.in_baseline is not None else torch.ones_like(mask[:, 0])
    return rewards.where(mask & in_baseline[:, None], 0)


def overlong_penalty(lengths: Tensor, max_length: int, share: float, penalty: float) -> Tensor:
    """Return the length penalty of each sequence, float [N], at most 0 (DAPO, arXiv 2503.14476).

    ::

        -penalty · min(max((l - (L_max - L_c)) / L_c, 0), 1),    L_c = share · L_max

    It is 0 up to a length of L_max - L_c, then falls linearly to -penalty at L_max.

    Args:
        lengths: float [N], the policy's tokens in each sequence, l.
        max_length: L_max, in tokens.
        share: the buffer L_c as a share of L_max, in (0, 1).
        penalty: the largest deduction.

    Example:
        >>> import torch
        >>> overlong_penalty(torch.tensor([50.0, 80.0, 90.0, 100.0]), max_length=100, share=0.2, penalty=1.0)
        tensor([-0.0000, -0.0000, -0.5000, -1.0000])
    """
    buffer = share * max_length
    return -penalty * ((lengths - (max_length - buffer)) / buffer).clamp(0, 1)


def environment_returns(batch: Batch) -> Tensor:
    """Return the environment's reward of each episode, float [N], without penalty or KL.

    Args:
        batch: reads `rewards` and, if these are [N, T], `action_mask`.
    """
    return batch.rewards if batch.rewards.ndim == 1 else batch.rewards.where(batch.action_mask, 0).sum(1)
