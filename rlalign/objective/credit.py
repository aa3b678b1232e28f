"""The credit axis: the rewards that each token is credited with. Rewards, values and results are [N, T].

The mask is true on the policy's tokens. Only these are time steps: an environment message between two of them takes no
time, nor does the padding after the last.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trajectory(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return the return of the episode on each of its tokens, G_t = Σ_k r_k, float [N, T]; 0 off the mask.

    Args:
        rewards: float [N, T], reward of each token, 0 off the mask.
        mask: bool [N, T], true on the policy's tokens.
    """
    return torch.where(mask, rewards.sum(1, keepdim=True), 0)


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return the discounted rewards from each token on, float [N, T]; 0 off the mask.

    ::

        G_t = Σ_{k>=t} gamma^(k-t) r_k

    t and k count the policy's tokens: masked columns between them take no time.

    Args:
        rewards: float [N, T], reward of each token, 0 off the mask.
        mask: bool [N, T], true on the policy's tokens.
        gamma: discount per token, in [0, 1].

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, False, True, True]])  # column 1 is a message of the environment
        >>> reward_to_go(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), mask, gamma=0.5)
        tensor([[0.2500, 0.0000, 0.5000, 1.0000]])
    """
    running = torch.zeros_like(rewards[:, 0])
    out = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        running = torch.where(mask[:, t], rewards[:, t] + gamma * running, running)
        out[:, t] = torch.where(mask[:, t], running, 0)
    return out


def gae(rewards: Tensor, values: Tensor, after: Tensor, mask: Tensor, gamma: float, lam: float | Tensor) -> Tensor:
    r"""Compute generalized advantage estimation (GAE, arXiv 1506.02438), float [N, T]; 0 off the mask.

    .. math::

        \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma \lambda A_{t+1}

    t + 1 is the row's next token of the policy. After its last token V is `after` and A is 0. lambda = 1 gives the
    discounted return minus V_t, lambda = 0 the error of one step.

    Args:
        rewards: float [N, T], reward of each token.
        values: float [N, T], V(s_t) of the state before token t.
        after: float [N], the value after the last token: 0 where the episode terminated, V(s_T) where it was truncated.
        mask: bool [N, T], true on the policy's tokens.
        gamma: discount per token, in [0, 1].
        lam: lambda in [0, 1], one number for all rows or one per row [N].

    Example:
        >>> import torch
        >>> rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.4, 0.5]])
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> gae(rewards, values, torch.zeros(1), mask, gamma=1.0, lam=0.0)
        tensor([[0.1000, 0.5000]])
        >>> gae(rewards, values, torch.zeros(1), mask, gamma=1.0, lam=1.0)
        tensor([[0.6000, 0.5000]])
    """
    following = after
    running = torch.zeros_like(after)
    out = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        on = mask[:, t]  # masked columns pass both recursions on unchanged
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(on, delta + gamma * lam * running, running)
        following = torch.where(on, values[:, t], following)
        out[:, t] = torch.where(on, running, 0)
    return out


def length_adaptive_lambda(mask: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """Return a lambda of GAE that grows with the length of the row, [N] (VAPO, arXiv 2504.05118).

    ::

        lambda = max(0, 1 - 1 / (alpha · l))

    l counts the row's tokens. Up to l = 1/alpha tokens lambda is 0.

    Args:
        mask: bool [N, T], true on the policy's tokens.
        alpha: above 0; VAPO uses 0.05.
        dtype: of the result.
    """
    length = mask.sum(1).clamp(min=1).to(dtype)
    return (1 - 1 / (alpha * length)).clamp(min=0)
