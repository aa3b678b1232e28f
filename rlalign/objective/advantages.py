"""The advantages of a whole batch: rewards, credit, baseline, scale, and the rows that enter the loss.

These need all rows of the batch at once, because baselines, standard deviations and whitening compare rows. The losses
(`loss.py`) can then be computed on any part of the batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlalign.objective import credit
from rlalign.objective.batch import Batch
from rlalign.objective.checked_batch import prepare
from rlalign.objective.custom_advantage import transformed
from rlalign.objective.groups import Groups
from rlalign.objective.preference import preference_rows
from rlalign.objective.registries import BASELINES
from rlalign.objective.scales import scale
from rlalign.objective.spec import Objective
from rlalign.objective.state import ObjectiveState
from rlalign.objective.token_rewards import environment_returns, token_rewards


@torch.no_grad()
def compute_advantages(objective: Objective, batch: Batch, state: ObjectiveState | None = None) -> Batch:
    """Return the batch with `advantages` and `returns` [N, T] filled in and `valid` narrowed to the rows of the loss.

    ::

        A = advantage(scale(credit(token rewards) - baseline))    advantage: of the user, by default the identity

    `returns` are the targets of the value: the credit, or for GAE the advantages with lambda_critic plus the values.
    Rows outside `in_baseline` (None: those that are not `valid`, because their reward failed) have zero advantages and
    enter no baseline. filter.drop_truncated and filter.dynamic_sampling take further rows out of the loss, not out of
    baselines.

    A preference loss (`Objective.is_preference`) has no advantages: see `preference_rows`.

    Args:
        objective: the point on the axes.
        batch: the whole batch of a step, not a part of it.
        state: beta and the moving average; the state before the first step if None.

    Raises:
        UserError: a tensor that an axis needs is missing or has the wrong shape; the message names it.
        NonFiniteError: NaN or inf in a tensor; the error names it.

    Example:
        >>> import torch
        >>> import rlalign.objective as rlo
        >>> ended = torch.ones(4, dtype=torch.bool)
        >>> batch = rlo.Batch(
        ...     action_mask=torch.tensor([[True, True], [True, False], [True, True], [True, True]]),
        ...     rewards=torch.tensor([1.0, 0.0, 0.0, 0.5]),
        ...     group_ids=torch.tensor([0, 0, 1, 1]),
        ...     terminated=ended,
        ...     truncated=~ended,
        ... )
        >>> rlo.compute_advantages(rlo.Objective(baseline="group_mean"), batch).advantages
        tensor([[ 0.5000,  0.5000],
                [-0.5000,  0.0000],
                [-0.2500, -0.2500],
                [ 0.2500,  0.2500]])
    """
    if objective.is_preference:
        return preference_rows(objective, batch)
    state = state or ObjectiveState.start(objective)
    b = replace(prepare(batch), ema=state.ema)
    assert b.valid is not None
    assert b.in_baseline is not None
    mask = b.action_mask & b.in_baseline[:, None]
    rewards = token_rewards(objective, b, state.kl_coef)
    episode_returns = rewards.sum(1)
    advantages, returns = _credit(objective, b, rewards, mask)
    if objective.credit.kind != "gae":  # GAE has subtracted the value already
        baseline = BASELINES.get(objective.baseline)(episode_returns, b)
        advantages = advantages - (baseline if baseline.ndim == 2 else baseline[:, None])
    # the subtraction, the scale and the function all fill masked columns
    advantages = torch.where(mask, advantages, 0)
    advantages = torch.where(mask, scale(objective, advantages, episode_returns, b), 0)
    advantages = torch.where(mask, transformed(objective, advantages, replace(b, returns=returns)), 0)
    valid = b.valid
    if objective.filter.dynamic_sampling:
        # DAPO, arXiv 2503.14476: a group of equal rewards has no gradient under a group baseline
        raw = environment_returns(b)
        valid = valid & Groups.of(b.group_ids, b.in_baseline, raw.dtype).varied(raw)
    if objective.filter.drop_truncated:
        valid = valid & ~b.truncated
    return replace(batch, advantages=advantages, returns=returns, valid=valid, in_baseline=b.in_baseline)


def _credit(objective: Objective, batch: Batch, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the credit of each token before the baseline, and the target of the value, [N, T] each."""
    spec = objective.credit
    if spec.kind == "trajectory":
        returns = credit.trajectory(rewards, mask)
        return returns, returns
    if spec.kind == "reward_to_go":
        returns = credit.reward_to_go(rewards, mask, spec.gamma)
        return returns, returns
    values = batch.need("old_values", "credit gae").to(rewards.dtype)
    after = torch.zeros_like(rewards[:, 0])
    if spec.bootstrap and bool(batch.truncated.any()):
        final = batch.need("final_values", "the bootstrap of truncated episodes")
        after = torch.where(batch.truncated & ~batch.terminated, final.to(rewards.dtype), 0)
    lam: float | Tensor = spec.lambda_actor
    if spec.length_alpha > 0:
        lam = credit.length_adaptive_lambda(mask, spec.length_alpha, rewards.dtype)
    actor = credit.gae(rewards, values, after, mask, spec.gamma, lam)
    critic = credit.gae(rewards, values, after, mask, spec.gamma, spec.lambda_critic)
    return actor, torch.where(mask, critic + values, 0)
