"""The KL axis: estimates of KL(pi‖ref) on the sampled tokens (Schulman, "Approximating KL divergence")."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlalign.errors import UnknownNameError
from rlalign.objective.last_action import on_last_action
from rlalign.objective.ratios import ratio
from rlalign.objective.spec import KL

ESTIMATORS = ("k1", "k2", "k3")
LOG_LIMIT = 20.0  # an estimate of exp(20) nats is meaningless, and exp(90) is inf in float32


def estimate(estimator: str, k1: Tensor) -> Tensor:
    """Return an estimate of KL(pi‖ref) from log-ratios k1 = log pi - log ref, elementwise.

    ::

        k1    k1                   unbiased
        k2    k1² / 2              biased, never negative
        k3    exp(-k1) + k1 - 1    unbiased, never negative

    Source: Schulman, "Approximating KL divergence" (http://joschu.net/blog/kl-approx.html). `in_reward` and `in_loss`
    tell the gradient of each.

    Args:
        estimator: k1, k2 or k3.
        k1: float of any shape, log pi - log ref. k3 clamps it at -20, so that the exponential cannot overflow.

    Raises:
        UnknownNameError: the estimator is none of these.

    Example:
        >>> import torch
        >>> k1 = torch.tensor([-1.0, 0.0, 1.0])
        >>> estimate("k2", k1)
        tensor([0.5000, 0.0000, 0.5000])
        >>> estimate("k3", k1)
        tensor([0.7183, 0.0000, 0.3679])
    """
    if estimator == "k1":
        return k1
    if estimator == "k2":
        return k1.square() / 2
    if estimator == "k3":
        k1 = k1.clamp(min=-LOG_LIMIT)
        return torch.expm1(-k1) + k1  # exp(-k1) - 1 would cancel near k1 = 0
    raise UnknownNameError("KL estimator", estimator, ESTIMATORS)


def mean_over(references: Sequence[Tensor], estimate_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of an estimate of KL(pi‖ref) over the reference policies.

    ::

        KL = (KL(pi‖ref_1) + ... + KL(pi‖ref_m)) / m

    The estimates are averaged, not the log-probs. For k1 both are equal. The exponential of mean log-probs is no
    distribution, so that k3 of it is not unbiased, and without an importance ratio it has another gradient, too.

    Args:
        references: m tensors of log-probs, m of 1 or more.
        estimate_of: log-probs of one reference -> estimate.
    """
    first, *others = [estimate_of(reference) for reference in references]
    return first if not others else torch.stack([first, *others]).mean(0)


def in_reward(kl: KL, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return the estimate to subtract from each token's reward, float [N, T], without gradient.

    As a reward, k1 gives the exact gradient of KL(pi‖ref); k2 and k3 give another one (arXiv 2506.09477, 2510.01555,
    2512.21852). `token_rewards` multiplies it by beta.

    Args:
        kl: reads `estimator` and `level`. Level token: the estimate of each token; level sequence: the estimate of the
            row's log-ratio Σ_t k1_t, on the last token of the row.
        logprobs: float [N, T], log pi at the start of the update.
        ref_logprobs: float [N, T], log ref.
        mask: bool [N, T]. Both log-probs are 0 where it is false.
    """
    k1 = (logprobs - ref_logprobs).detach()
    if kl.level == "token":
        return estimate(kl.estimator, k1)
    return on_last_action(estimate(kl.estimator, k1.sum(1)), mask)


def in_loss(kl: KL, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor | None, mask: Tensor) -> Tensor:
    """Return the estimate to add to each token's loss, float [N, T], with gradient; it sums to the row's estimate.

    ::

        level token       f(k1_t) · w_t
        level sequence    f(Σ_t k1_t) / |y| · w_t

    f is the estimator, and w the ratio pi/old that `kl.importance` names: 1 (none), of the token, of the sequence, or
    the geometric mean. `policy_loss` multiplies the result by beta.

    The gradient of an estimate is not an estimate of the gradient (arXiv 2506.09477, 2510.01555, 2512.21852). On
    policy, and for aggregation sequence_sum:

    - k1 has the expected gradient 0.
    - k2 of the sequence has the gradient of KL(pi‖ref). k2 of tokens has the gradient of each token's KL alone, without
      the effect of a token on later ones.
    - k3 of the sequence has the gradient of KL(ref‖pi).
    - k1 and k3 times the ratio of the sequence have the gradient of KL(pi‖ref), at both levels.

    Args:
        kl: reads `estimator`, `level` and `importance`.
        logprobs: float [N, T], log pi with gradient.
        ref_logprobs: float [N, T], log ref.
        old_logprobs: float [N, T], log old; None: w = 1.
        mask: bool [N, T]. All log-probs are 0 where it is false.
    """
    k1 = logprobs - ref_logprobs
    if kl.level == "token":
        value = estimate(kl.estimator, k1)
    else:
        value = (estimate(kl.estimator, k1.sum(1)) / mask.sum(1).clamp(min=1))[:, None].expand_as(k1)
    if kl.importance == "none" or old_logprobs is None:
        return value
    level = {"token": "token", "sequence": "sequence_product", "geomean": "sequence_geomean"}[kl.importance]
    return value * ratio(level, logprobs - old_logprobs, mask)
