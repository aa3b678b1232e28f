"""The KL axis: estimates of KL(pi‖ref) on the sampled tokens (Schulman, "Approximating KL divergence").

With k1 = log pi - log ref: k1 is unbiased, k2 = k1²/2 has the KL's gradient, k3 = exp(-k1) + k1 - 1 is unbiased and
never negative. As a *reward* k1 gives the exact gradient of KL(pi‖ref). As a *loss* the gradient of an estimate is not
an estimate of the gradient: that of k1 is 0 in expectation, that of k2 is exact on the sequence, that of k3 is the
gradient of KL(ref‖pi) (arXiv 2506.09477, 2510.01555, 2512.21852). k3 times the ratio, with its gradient, is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.errors import UnknownNameError
from rlalign.objective.last_action import on_last_action
from rlalign.objective.ratios import ratio
from rlalign.objective.spec import KL

ESTIMATORS = ("k1", "k2", "k3")
LOG_LIMIT = 20.0  # an estimate of exp(20) nats is meaningless, and exp(90) is inf in float32


def estimate(estimator: str, k1: Tensor) -> Tensor:
    """Return the estimator of k1 = log pi - log ref, elementwise. k3 clamps k1 at -20, so that it cannot overflow."""
    if estimator == "k1":
        return k1
    if estimator == "k2":
        return k1.square() / 2
    if estimator == "k3":
        k1 = k1.clamp(min=-LOG_LIMIT)
        return torch.expm1(-k1) + k1  # exp(-k1) - 1 would cancel near k1 = 0
    raise UnknownNameError("KL estimator", estimator, ESTIMATORS)


def in_reward(kl: KL, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return the estimate to subtract from each token's reward, [N, T], without gradient.

    With level sequence the estimate is on the last token of each row.
    """
    k1 = (logprobs - ref_logprobs).detach()
    if kl.level == "token":
        return estimate(kl.estimator, k1)
    return on_last_action(estimate(kl.estimator, k1.sum(1)), mask)


def in_loss(kl: KL, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor | None, mask: Tensor) -> Tensor:
    """Return the estimate to add to each token's loss, [N, T], with gradient; it sums to the row's estimate."""
    k1 = logprobs - ref_logprobs
    if kl.level == "token":
        value = estimate(kl.estimator, k1)
    else:
        value = (estimate(kl.estimator, k1.sum(1)) / mask.sum(1).clamp(min=1))[:, None].expand_as(k1)
    if kl.importance == "none" or old_logprobs is None:
        return value
    level = {"token": "token", "sequence": "sequence_product", "geomean": "sequence_geomean"}[kl.importance]
    return value * ratio(level, logprobs - old_logprobs, mask)
