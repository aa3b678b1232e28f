"""The trust axis: bounds on a batch's update, `f(x, trust) -> (gain [N, T] to be maximized, cut [N, T])`.

`cut` is true where the bound acts: it removed the gradient or, for CISPO, capped its weight. A user's function may
return the gain alone. At pi = old each gain here has the gradient A · grad log pi of its ratio's level: bounds act only
once the policy has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlalign.errors import UnknownNameError
from rlalign.objective.registries import trust_region
from rlalign.objective.spec import Trust


@dataclass(frozen=True, slots=True)
class TrustInput:
    """The arguments of a trust region, [N, T] each; masked columns are 0 (ratio 1).

    Attributes:
        ratio: pi/old at the level of the ratio axis, with gradient; 1 when the ratio axis is none.
        log_ratio: log pi - log old of each token, with gradient; 0 when the ratio axis is none.
        advantages: without gradient.
        logprobs: log pi of each token, with gradient.
        mask: bool, the policy's tokens of valid rows.
        plain: the ratio axis is none.
    """

    ratio: Tensor
    log_ratio: Tensor
    advantages: Tensor
    logprobs: Tensor
    mask: Tensor
    plain: bool


Gain = tuple[Tensor, Tensor]


@trust_region("none")
def none(x: TrustInput, trust: Trust) -> Gain:
    """Return rho · A, or log pi · A without a ratio."""
    gain = (x.logprobs if x.plain else x.ratio) * x.advantages
    return gain, torch.zeros_like(x.mask)


@trust_region("clip")
def clip(x: TrustInput, trust: Trust) -> Gain:
    """Return min(rho A, clip(rho, 1-low, 1+high) A) (PPO, arXiv 1707.06347).

    low != high: DAPO, arXiv 2503.14476.
    """
    bounded = x.ratio.clamp(1 - trust.low, 1 + trust.high)
    return torch.minimum(x.ratio * x.advantages, bounded * x.advantages), _outside(x, trust)


@trust_region("dual_clip")
def dual_clip(x: TrustInput, trust: Trust) -> Gain:
    """Return the gain of clip, and max(gain, c A) where A < 0, c = trust.dual (arXiv 1912.09729)."""
    gain, cut = clip(x, trust)
    floor = trust.dual * x.advantages
    capped = (x.advantages < 0) & (x.ratio > trust.dual)
    return torch.where(x.advantages < 0, torch.maximum(gain, floor), gain), cut | capped


@trust_region("stopgrad_cap")
def stopgrad_cap(x: TrustInput, trust: Trust) -> Gain:
    """Return sg(clip(rho, 1-low, 1+high)) · A · log pi (CISPO, arXiv 2506.13585): each token keeps its gradient.

    The cap is 1 + high as in the paper. TRL's `epsilon_high` is the cap itself: its 5.0 is high = 4 here. low = 1 means
    no floor.
    """
    weight = x.ratio.detach().clamp(1 - trust.low, 1 + trust.high)
    capped = (x.ratio > 1 + trust.high) | (x.ratio < 1 - trust.low)
    return weight * x.advantages * x.logprobs, capped & x.mask


@trust_region("soft_gate")
def soft_gate(x: TrustInput, trust: Trust) -> Gain:
    """Return (4/tau) sigmoid(tau (rho - 1)) · A, tau by the sign of A (SAPO, arXiv 2511.20347)."""
    tau = torch.where(x.advantages > 0, trust.tau_pos, trust.tau_neg).to(x.ratio.dtype)
    return 4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * x.advantages, torch.zeros_like(x.mask)


@trust_region("log_clip")
def log_clip(x: TrustInput, trust: Trust) -> Gain:
    """Return the geometric mean of clipped token ratios, times A (GMPO, arXiv 2507.20673).

    A · exp((1/|y|) Σ_t l_t), where l_t is min(log rho_t, high) for A > 0 and max(log rho_t, -low) for A < 0.
    It equals the paper's (Π_t |min(rho_t A, clip(rho_t, e^-low, e^high) A)|)^(1/|y|) · sgn(A) if A is equal on all
    tokens of a row.
    """
    up = x.log_ratio.clamp(max=trust.high)
    down = x.log_ratio.clamp(min=-trust.low)
    bounded = torch.where(x.advantages > 0, up, down)
    mean = torch.where(x.mask, bounded, 0).sum(1, keepdim=True) / x.mask.sum(1, keepdim=True).clamp(min=1)
    cut = torch.where(x.advantages > 0, x.log_ratio > trust.high, x.log_ratio < -trust.low)
    return mean.exp() * x.advantages, cut & x.mask


@trust_region("divergence_mask")
def divergence_mask(x: TrustInput, trust: Trust) -> Gain:
    """Return M_t rho_t A_t, with M_t = 0 where the token moves away from old and D_t > delta, and 1 elsewhere.

    Moving away is A > 0 and rho > 1, or A < 0 and rho < 1.

    D_t compares pi and old on two outcomes, this token or any other: |pi - old| (tv) or
    old log(old/pi) + (1-old) log((1-old)/(1-pi)) (kl) (DPPO, arXiv 2602.04879).
    """
    pi = x.logprobs.detach().exp()
    old = (x.logprobs - x.log_ratio).detach().exp()
    if trust.divergence == "tv":
        distance = (pi - old).abs()
    elif trust.divergence == "kl":
        tiny = torch.finfo(pi.dtype).eps  # keeps both logarithms finite at probabilities 0 and 1
        p, q = pi.clamp(tiny, 1 - tiny), old.clamp(tiny, 1 - tiny)
        distance = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    else:
        raise UnknownNameError("divergence", trust.divergence, ("tv", "kl"))
    moves_away = torch.where(x.advantages > 0, x.ratio > 1, x.ratio < 1) & (x.advantages != 0)
    cut = moves_away & (distance > trust.delta) & x.mask
    return torch.where(cut, 0, x.ratio * x.advantages), cut


def _outside(x: TrustInput, trust: Trust) -> Tensor:
    """Return true where the clipped gain has no gradient: A pushes a ratio further out of the interval."""
    high = (x.advantages > 0) & (x.ratio > 1 + trust.high)
    low = (x.advantages < 0) & (x.ratio < 1 - trust.low)
    return (high | low) & x.mask
