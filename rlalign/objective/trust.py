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
        ratio: float, pi/old at the level of the ratio axis, with gradient; 1 when the ratio axis is none.
        log_ratio: float, log pi - log old of each token, with gradient; 0 when the ratio axis is none.
        advantages: float, without gradient.
        logprobs: float, log pi of each token, with gradient.
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
    """Return the gain without a bound: rho · A, or log pi · A if the ratio axis is none.

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: not read.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], false everywhere.
    """
    gain = (x.logprobs if x.plain else x.ratio) * x.advantages
    return gain, torch.zeros_like(x.mask)


@trust_region("clip")
def clip(x: TrustInput, trust: Trust) -> Gain:
    """Return the clipped gain (PPO, arXiv 1707.06347).

    ::

        min(rho A, clip(rho, 1 - low, 1 + high) A)

    With low != high it is the clip-higher of DAPO (arXiv 2503.14476).

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `low` and `high`.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], true where the gain has no gradient
        (A > 0 and rho > 1 + high, or A < 0 and rho < 1 - low).
    """
    bounded = x.ratio.clamp(1 - trust.low, 1 + trust.high)
    return torch.minimum(x.ratio * x.advantages, bounded * x.advantages), _outside(x, trust)


@trust_region("dual_clip")
def dual_clip(x: TrustInput, trust: Trust) -> Gain:
    r"""Return the gain of `clip`, bounded from below for negative advantages (arXiv 1912.09729).

    .. math::

        g = \begin{cases}
        \max\left( g_\text{clip},\ c A \right) & \text{if } A < 0 \\
        g_\text{clip} & \text{otherwise}
        \end{cases}

    c is `trust.dual`, above 1 + high. A token with A < 0 and rho > c has no gradient.

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `low`, `high` and `dual`.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], true where the gain has no gradient.
    """
    gain, cut = clip(x, trust)
    floor = trust.dual * x.advantages
    capped = (x.advantages < 0) & (x.ratio > trust.dual)
    return torch.where(x.advantages < 0, torch.maximum(gain, floor), gain), cut | capped


@trust_region("stopgrad_cap")
def stopgrad_cap(x: TrustInput, trust: Trust) -> Gain:
    """Return the log-prob gain with a capped weight, so that each token keeps its gradient (CISPO, arXiv 2506.13585).

    ::

        sg(clip(rho, 1 - low, 1 + high)) · A · log pi,    sg: without gradient

    The cap is 1 + high as in the paper. TRL's `epsilon_high` is the cap itself: its 5.0 is high = 4 here. low = 1 means
    no floor.

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `low` and `high`.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], true where the weight is not rho.
    """
    weight = x.ratio.detach().clamp(1 - trust.low, 1 + trust.high)
    capped = (x.ratio > 1 + trust.high) | (x.ratio < 1 - trust.low)
    return weight * x.advantages * x.logprobs, capped & x.mask


@trust_region("soft_gate")
def soft_gate(x: TrustInput, trust: Trust) -> Gain:
    r"""Return the gain through a smooth gate instead of a clip (SAPO, arXiv 2511.20347).

    .. math:: \frac{4}{\tau} \sigma\left( \tau (\rho - 1) \right) A, \qquad
        \tau = \begin{cases} \tau_\text{pos} & \text{if } A > 0 \\ \tau_\text{neg} & \text{otherwise} \end{cases}

    At rho = 1 the gradient of the gate is 1; it fades as the ratio moves away from 1, faster for a larger tau.

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `tau_pos` and `tau_neg`.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], false everywhere.
    """
    tau = torch.where(x.advantages > 0, trust.tau_pos, trust.tau_neg).to(x.ratio.dtype)
    return 4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * x.advantages, torch.zeros_like(x.mask)


@trust_region("log_clip")
def log_clip(x: TrustInput, trust: Trust) -> Gain:
    r"""Return the geometric mean of clipped token ratios, times A (GMPO, arXiv 2507.20673).

    .. math:: A \exp\left( \frac{1}{|y|} \sum_t \ell_t \right), \qquad
        \ell_t = \begin{cases}
        \min(\log \rho_t, \text{high}) & \text{if } A > 0 \\
        \max(\log \rho_t, -\text{low}) & \text{otherwise}
        \end{cases}

    It equals the paper's expression if A is equal on all tokens of a row::

        (Π_t |min(rho_t A, clip(rho_t, e^-low, e^high) A)|)^(1/|y|) · sgn(A)

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `low` and `high`, which bound the log-ratio.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], true where the log-ratio is clipped
        and has no gradient.
    """
    up = x.log_ratio.clamp(max=trust.high)
    down = x.log_ratio.clamp(min=-trust.low)
    bounded = torch.where(x.advantages > 0, up, down)
    mean = torch.where(x.mask, bounded, 0).sum(1, keepdim=True) / x.mask.sum(1, keepdim=True).clamp(min=1)
    cut = torch.where(x.advantages > 0, x.log_ratio > trust.high, x.log_ratio < -trust.low)
    return mean.exp() * x.advantages, cut & x.mask


@trust_region("divergence_mask")
def divergence_mask(x: TrustInput, trust: Trust) -> Gain:
    r"""Return the gain of tokens, 0 where a token has moved too far from the old policy (DPPO, arXiv 2602.04879).

    ::

        M_t rho_t A_t,   M_t = 0 if the token moves away from old and D_t > delta, else 1

    Moving away is A > 0 and rho > 1, or A < 0 and rho < 1. D_t compares pi and old on two outcomes, this token or any
    other. In both equations pi and old are the probabilities of the token:

    .. math:: D_\text{tv} = \left| \pi - \pi_\text{old} \right|

    .. math:: D_\text{kl} = \pi_\text{old} \log \frac{\pi_\text{old}}{\pi}
        + (1 - \pi_\text{old}) \log \frac{1 - \pi_\text{old}}{1 - \pi}

    Args:
        x: ratios, advantages and log-probs, see `TrustInput`.
        trust: reads `divergence` and `delta`.

    Returns:
        The gain, float [N, T], to be maximized, and `cut`, bool [N, T], true where M = 0.

    Raises:
        UnknownNameError: `trust.divergence` is neither tv nor kl.
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
