"""The losses of any part of a batch: policy, likelihood and value, each as a sum and its count.

`compute_advantages` comes first, on the whole batch. Totals, counts and metrics of the parts add up to those of the
whole batch, and only the learner divides.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlalign.objective import aggregation, offpolicy
from rlalign.objective.batch import Batch, LossSum
from rlalign.objective.checked_batch import prepare
from rlalign.objective.kl import LOG_LIMIT, estimate, in_loss, mean_over
from rlalign.objective.preference import preference_metrics
from rlalign.objective.ratios import ratio
from rlalign.objective.registries import LOSSES, TRUSTS, custom_loss
from rlalign.objective.spec import Objective
from rlalign.objective.state import ObjectiveState
from rlalign.objective.token_rewards import environment_returns
from rlalign.objective.trust import TrustInput
from rlalign.objective.value import squared_error


def loss_count(objective: Objective, batch: Batch) -> Tensor:
    """Return the count that `policy_loss` reports for these rows, a float scalar, from masks and lengths alone.

    Args:
        objective: reads `aggregation`.
        batch: rows with `valid` from `compute_advantages`; log-probs are not read.
    """
    return aggregation.count(objective.aggregation, batch)


def value_count(batch: Batch) -> Tensor:
    """Return the count that `value_loss` reports for these rows: the number of their tokens, a float scalar.

    Args:
        batch: rows with `valid` from `compute_advantages`; values are not read.
    """
    return aggregation.count("token_global", batch)


def likelihood_count(objective: Objective, batch: Batch) -> Tensor:
    """Return the count that `likelihood_loss` reports for these rows, a float scalar.

    It is the number of tokens of the valid rows whose reward is above regularizer.nll_above.

    Args:
        objective: reads `regularizer.nll_above`.
        batch: rows with `valid` from `compute_advantages`; log-probs are not read.
    """
    b = prepare(batch, finite=False)
    return aggregation.count("token_global", _positive(objective, b))


def policy_loss(
    objective: Objective,
    batch: Batch,
    state: ObjectiveState | None = None,
    *,
    measure: bool = True,
    finite: bool = True,
) -> LossSum:
    """Compute the policy term, the KL in the loss and the entropy bonus, summed over the rows given.

    The loss of a token is::

        -gain(ratio, trust) · off-policy weight + beta · KL - entropy_coef · H

    A custom `objective.loss` takes the place of the first term. A preference loss has this term alone, and both rows of
    a pair must be among the rows given.

    Args:
        objective: the point on the axes.
        batch: rows with `advantages` (from `compute_advantages`) and `logprobs` with gradient.
        state: holds beta; the state before the first step if None.
        measure: False leaves the metrics out.
        finite: False leaves out the check for NaN and inf, which waits for the device.

    Returns:
        Total and count by the aggregation axis, and metrics. These are pg_loss, kl (nats per completion, k1), kl_k3
        (per token), kl_clamped, entropy, ratio, ratio_max, clip_fraction, mismatch (`|log pi - log sampler|`),
        mismatch_max, off_policy_weight. Those with `_max` are in `maxima`. A preference loss has pg_loss, entropy and
        those of `preference_metrics`.

    Raises:
        UserError: a tensor that an axis needs is missing or has the wrong shape; the message names it.
        NonFiniteError: NaN or inf in a tensor; the error names it.

    Example:
        The plain policy gradient of one token: the loss is -A · log pi, and its gradient -A.

        >>> import torch
        >>> import rlalign.objective as rlo
        >>> yes, logprobs = torch.tensor([True]), torch.tensor([[-0.5]], requires_grad=True)
        >>> batch = rlo.Batch(yes[:, None], torch.tensor([2.0]), torch.tensor([0]), yes, ~yes, logprobs=logprobs)
        >>> batch = rlo.compute_advantages(rlo.Objective(), batch)
        >>> loss = rlo.policy_loss(rlo.Objective(), batch)
        >>> (loss.total / loss.count).item()
        1.0
        >>> torch.autograd.grad(loss.total, logprobs)[0]
        tensor([[-2.]])
    """
    b = prepare(batch, finite=finite)
    state = state or ObjectiveState.start(objective)
    logprobs = b.need("logprobs", "the policy loss")
    b.need("advantages", "the policy loss (call rlalign.objective.compute_advantages on the whole batch first)")
    assert b.valid is not None
    mask = b.action_mask & b.valid[:, None]
    per_token: Tensor = LOSSES.get(objective.loss)(objective, b)
    policy_term = per_token.detach()
    if objective.kl.where == "loss":
        old = b.need("old_logprobs", "kl.importance") if objective.kl.importance != "none" else None
        distance = mean_over(
            b.references("KL in the loss"), lambda ref: in_loss(objective.kl, logprobs, ref, old, b.action_mask)
        )
        per_token = per_token + state.kl_coef * distance
    if objective.regularizer.entropy_coef:
        per_token = per_token - objective.regularizer.entropy_coef * b.need("entropies", "the entropy bonus")
    count = aggregation.count(objective.aggregation, b)
    total = aggregation.total(objective.aggregation, per_token, b)
    if not measure:
        return LossSum(total, count, {})
    metrics, maxima = _metrics(objective, b, mask)
    metrics["pg_loss"] = (aggregation.total(objective.aggregation, policy_term, b), count)
    return LossSum(total, count, metrics, maxima)


def likelihood_loss(objective: Objective, batch: Batch) -> LossSum:
    r"""Compute the negative log-likelihood of rows with positive reward, to be minimized (VAPO, arXiv 2504.05118).

    .. math:: L = -\frac{\text{nll\_coef}}{\sum_{i \in S} |y_i|} \sum_{i \in S} \sum_t \log \pi(y_{i,t} \mid y_{i,<t})

    S holds the valid rows whose reward from the environment is above regularizer.nll_above.

    Args:
        objective: reads `regularizer`.
        batch: rows with `valid` from `compute_advantages`, and `logprobs` with gradient.

    Returns:
        Total, the numerator of L; count, the tokens of S; the metric positive_nll, without the coefficient.

    Raises:
        UserError: the batch has no `logprobs`, or a tensor has the wrong shape.
    """
    b = _positive(objective, prepare(batch, finite=False))
    nll = -b.need("logprobs", "the likelihood of rows with positive reward")
    total = aggregation.total("token_global", nll, b)
    count = aggregation.count("token_global", b)
    return LossSum(objective.regularizer.nll_coef * total, count, {"positive_nll": (total.detach(), count)})


@custom_loss("surrogate")
def surrogate(objective: Objective, batch: Batch) -> Tensor:
    """Return -gain(ratio, trust) · off-policy weight of each token, [N, T], to be minimized."""
    gain = TRUSTS.get(objective.trust.kind)(trust_input(objective, batch), objective.trust)
    gain = gain[0] if isinstance(gain, tuple) else gain
    loss: Tensor = -gain * off_policy_weights(objective, batch)
    return loss


def trust_input(objective: Objective, batch: Batch) -> TrustInput:
    """Return the arguments of a trust region, computed from a prepared batch."""
    logprobs = batch.need("logprobs", "the policy loss")
    advantages = batch.need("advantages", "the policy loss")
    assert batch.valid is not None
    mask = batch.action_mask & batch.valid[:, None]
    if objective.ratio == "none":
        ones = torch.ones_like(logprobs)
        return TrustInput(ones, torch.zeros_like(logprobs), advantages, logprobs, mask, plain=True)
    log_ratio = logprobs - batch.need("old_logprobs", f"ratio {objective.ratio}")
    rho = ratio(objective.ratio, log_ratio, batch.action_mask)
    return TrustInput(rho, log_ratio, advantages, logprobs, mask, plain=False)


def off_policy_weights(objective: Objective, batch: Batch) -> Tensor | float:
    """Return the off-policy weights [N, T] of a prepared batch, without gradient; 1.0 without a correction."""
    spec = objective.off_policy
    if spec.kind == "none":
        return 1.0
    purpose = f"off_policy.kind {spec.kind}"
    logprobs = batch.need("logprobs", purpose)
    advantages = batch.need("advantages", purpose)
    # without a ratio, pi itself stands for pi_old in w = pi_old / pi_sampler
    old = logprobs if objective.ratio == "none" else batch.need("old_logprobs", purpose)
    sampler = batch.need("sampler_logprobs", purpose)
    return offpolicy.weights(spec, logprobs, old.detach(), sampler, advantages, batch.action_mask)


def value_loss(objective: Objective, batch: Batch, *, finite: bool = True) -> LossSum:
    """Compute the loss of the critic, value.coef times the squared error of each token.

    ::

        value.coef · ½ (V - R)²,    clipped by value.clip: see `squared_error`

    V is `values`, with gradient, R is `returns`.

    Args:
        objective: reads `value`.
        batch: rows with `returns` (from `compute_advantages`) and `values` with gradient; `old_values` if value.clip is
            above 0.
        finite: False leaves out the check for NaN and inf, which waits for the device.

    Returns:
        Total and count over tokens, and metrics. These are value_loss (without the coefficient), value, return, and
        value_error_squared and return_squared for the explained variance.

    Raises:
        UserError: a tensor is missing or has the wrong shape; the message names it.
        NonFiniteError: NaN or inf in a tensor; the error names it.
    """
    b = prepare(batch, finite=finite)
    values = b.need("values", "the value loss")
    returns = b.need("returns", "the value loss")
    old = b.need("old_values", "value.clip") if objective.value.clip > 0 else b.old_values
    loss = squared_error(values, returns, old, objective.value.clip)
    total = aggregation.total("token_global", loss, b)
    count = aggregation.count("token_global", b)

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        # metrics describe the rows as they are, without sample weights
        return aggregation.total("token_global", x.detach(), replace(b, weights=None)), count

    metrics = {
        "value_loss": summed(loss),
        "value": summed(values),
        "return": summed(returns),
        "return_squared": summed(returns.square()),
        "value_error_squared": summed((values - returns).square()),
    }
    return LossSum(objective.value.coef * total, count, metrics)


def _positive(objective: Objective, b: Batch) -> Batch:
    """Return a prepared batch in which only rows with an environment reward above nll_above are valid."""
    assert b.valid is not None
    return replace(b, valid=b.valid & (environment_returns(b) > objective.regularizer.nll_above))


@torch.no_grad()
def _metrics(
    objective: Objective, b: Batch, mask: Tensor
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return the metrics of `policy_loss` as name -> (sum, count), and its maxima as name -> scalar."""
    logprobs = b.need("logprobs", "the policy loss")
    tokens = mask.sum().to(logprobs.dtype)
    rows = mask.any(1).sum().to(logprobs.dtype)
    metrics: dict[str, tuple[Tensor, Tensor]] = {}
    maxima: dict[str, Tensor] = {}

    def per_token(name: str, x: Tensor) -> None:
        metrics[name] = (x.where(mask, 0).sum().to(logprobs.dtype), tokens)

    if b.entropies is not None:
        per_token("entropy", b.entropies)
    if objective.is_preference:
        # the completions were not sampled from the policy: their log-ratios do not estimate its KL
        return metrics | preference_metrics(objective, b), maxima
    if b.ref_logprobs is not None:
        references = b.references("the KL metrics")
        k1 = mean_over(references, lambda ref: logprobs - ref)
        metrics["kl"] = (k1.where(mask, 0).sum(), rows)
        per_token("kl_k3", mean_over(references, lambda ref: estimate("k3", logprobs - ref)))
        per_token("kl_clamped", mean_over(references, lambda ref: (logprobs - ref < -LOG_LIMIT).to(logprobs.dtype)))
    if b.sampler_logprobs is not None:
        mismatch = (logprobs - b.sampler_logprobs).abs()
        per_token("mismatch", mismatch)
        maxima["mismatch_max"] = mismatch.where(mask, 0).max()
    if objective.ratio != "none" and objective.loss == "surrogate":
        x = trust_input(objective, b)
        per_token("ratio", x.ratio)
        maxima["ratio_max"] = x.ratio.where(mask, 0).max()
        gain = TRUSTS.get(objective.trust.kind)(x, objective.trust)
        if isinstance(gain, tuple):  # (gain, cut); a trust region may return the gain alone
            per_token("clip_fraction", gain[1].to(logprobs.dtype))
    if objective.off_policy.kind != "none" and objective.loss == "surrogate":
        weights = off_policy_weights(objective, b)
        assert isinstance(weights, Tensor)
        per_token("off_policy_weight", weights)
    return metrics, maxima
