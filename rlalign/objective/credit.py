"""The credit axis: the rewards that each token is credited with. Rewards, values and results are [N, T].

The mask is true on the policy's tokens. Only these are time steps: an environment message between two of them takes no
time, nor does the padding after the last.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trajectory(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return G_t = Σ_k r_k on each token of the row, 0 off the mask; [N, T]."""
    return torch.where(mask, rewards.sum(1, keepdim=True), 0)


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return G_t = Σ_{k>=t} gamma^(k-t) r_k, k counting the policy's tokens; 0 off the mask; [N, T]."""
    running = torch.zeros_like(rewards[:, 0])
    out = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        running = torch.where(mask[:, t], rewards[:, t] + gamma * running, running)
        out[:, t] = torch.where(mask[:, t], running, 0)
    return out


def gae(rewards: Tensor, values: Tensor, after: Tensor, mask: Tensor, gamma: float, lam: float | Tensor) -> Tensor:
    """Compute generalized advantage estimation (arXiv 1506.02438), [N, T].

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1}

    Args:
        rewards, values: float [N, T]; V(s_t) is the value of the state before token t.
        after: float [N], the value after the last token: 0 where the episode terminated, V(s_T) where it was truncated.
        mask: bool [N, T].
        gamma: discount per token.
        lam: lambda, one number for all rows or one per row [N].
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
    """Return lambda = 1 - 1/(alpha · l), l the row's tokens, at least 0 (VAPO, arXiv 2504.05118); [N]."""
    length = mask.sum(1).clamp(min=1).to(dtype)
    return (1 - 1 / (alpha * length)).clamp(min=0)
