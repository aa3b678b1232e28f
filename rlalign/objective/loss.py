"""The axes put together: advantages of a whole batch, then losses of any part of it.

`advantages` sees the whole batch once, without gradient. `policy_loss` and `value_loss` see it whole or in parts:
totals, counts and metrics of the parts add up to those of the whole, and only the learner divides.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective import aggregation, credit, offpolicy, shaping
from rlalign.objective.batch import Batch, LossSum
from rlalign.objective.checked_batch import prepare
from rlalign.objective.kl import LOG_LIMIT, estimate, in_loss, in_reward, on_last
from rlalign.objective.ratios import ratio
from rlalign.objective.registries import BASELINES, LOSSES, TRUSTS
from rlalign.objective.scales import scale
from rlalign.objective.spec import Objective
from rlalign.objective.state import ObjectiveState
from rlalign.objective.trust import TrustInput
from rlalign.objective.value import squared_error


@torch.no_grad()
def advantages(objective: Objective, batch: Batch, state: ObjectiveState | None = None) -> Batch:
    """The batch with `advantages` and `returns` [N, T] filled in, and `valid` narrowed to the rows that enter the loss.

    Call it on the whole batch: baselines, spreads and whitening look at all rows. Rows whose reward failed get zero
    advantages and no vote; with filter.drop_truncated and filter.dynamic_sampling more rows leave the loss.

    Raises:
        UserError: a tensor that an axis needs is missing, or has the wrong shape; names it.
        NonFiniteError: NaN or inf in the tensor it names.
    """
    state = state or ObjectiveState.start(objective)
    b = replace(prepare(batch), ema=state.ema)
    assert b.valid is not None
    assert b.in_baseline is not None
    mask = b.action_mask & b.in_baseline[:, None]
    rewards = token_rewards(objective, b, state)
    whole = rewards.sum(1)
    gained, returns = _credit(objective, b, rewards, mask)
    if objective.credit.kind != "gae":
        base = BASELINES.get(objective.baseline)(whole, b)
        gained = gained - (base if base.ndim == 2 else base[:, None])
    gained = torch.where(mask, gained, 0)
    gained = torch.where(mask, scale(objective, gained, whole, b), 0)
    valid = b.valid
    if objective.filter.dynamic_sampling:
        valid = valid & shaping.informative(_raw_returns(b), b.group_ids, b.in_baseline)
    if objective.filter.drop_truncated:
        valid = valid & ~b.truncated
    return replace(batch, advantages=gained, returns=returns, valid=valid, in_baseline=b.in_baseline)


def token_rewards(objective: Objective, batch: Batch, state: ObjectiveState) -> Tensor:
    """[N, T]: the reward of each token, with the length penalty and, for kl.where reward, minus beta · KL estimate.

    Expects a prepared batch. A reward given per trajectory stands on its last token.
    """
    mask = batch.action_mask
    rewards = batch.rewards if batch.rewards.ndim == 2 else on_last(batch.rewards, mask)
    rewards = rewards.where(mask, 0)
    d = objective.filter
    if d.overlong > 0:
        if batch.max_length < 1:
            raise UserError("filter.overlong is a share of L_max, and the batch's max_length is not set")
        length = mask.sum(1).to(rewards.dtype)
        rewards = rewards + on_last(shaping.overlong(length, batch.max_length, d.overlong, d.overlong_penalty), mask)
    if objective.kl.where == "reward":
        drawn = batch.old_logprobs
        drawn = batch.need("sampler_logprobs", "KL in the reward") if drawn is None else drawn
        distance = in_reward(objective.kl, drawn, batch.need("ref_logprobs", "KL in the reward"), mask)
        rewards = rewards - state.kl_coef * distance.to(rewards.dtype)
    in_baseline = batch.in_baseline if batch.in_baseline is not None else torch.ones_like(mask[:, 0])
    return rewards.where(mask & in_baseline[:, None], 0)


def _credit(objective: Objective, batch: Batch, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Credit of each token before the baseline, and the target of the value, [N, T] each."""
    c = objective.credit
    if c.kind == "trajectory":
        gained = credit.trajectory(rewards, mask)
        return gained, gained
    if c.kind == "reward_to_go":
        gained = credit.reward_to_go(rewards, mask, c.gamma)
        return gained, gained
    values = batch.need("old_values", "credit gae").to(rewards.dtype)
    after = torch.zeros_like(rewards[:, 0])
    if c.bootstrap and bool(batch.truncated.any()):
        final = batch.need("final_values", "the bootstrap of truncated episodes")
        after = torch.where(batch.truncated & ~batch.terminated, final.to(rewards.dtype), 0)
    lam: float | Tensor = c.lambda_actor
    if c.length_alpha > 0:
        lam = credit.length_adaptive_lambda(mask, c.length_alpha, rewards.dtype)
    gained = credit.gae(rewards, values, after, mask, c.gamma, lam)
    critic = credit.gae(rewards, values, after, mask, c.gamma, c.lambda_critic)
    return gained, torch.where(mask, critic + values, 0)


def loss_count(objective: Objective, batch: Batch) -> Tensor:
    """The denominator that `policy_loss` will report for these rows: masks and lengths alone, before any forward."""
    return aggregation.count(objective.aggregation, batch)


def value_count(batch: Batch) -> Tensor:
    """The denominator that `value_loss` will report for these rows: their tokens."""
    return aggregation.count("token_global", batch)


def policy_loss(
    objective: Objective,
    batch: Batch,
    state: ObjectiveState | None = None,
    *,
    measure: bool = True,
    finite: bool = True,
) -> LossSum:
    """Policy term, KL in the loss and entropy bonus, summed over the rows given.

    Needs `advantages` from the function of that name, and `logprobs` with gradient. Token losses:
    - gain(ratio, trust) · off-policy weight + beta · KL - entropy_coef · H. `measure=False` leaves the metrics out,
    `finite=False` the look for NaN and inf, which waits for the device.

    Returns:
        total and count by the aggregation axis, and metrics: pg_loss, kl (nats per completion, k1), kl_k3 (per token),
        kl_clamped, entropy, ratio, ratio_max (a maximum, in `maxima`), clip_fraction, mismatch (|log pi - log
        sampler|), off_policy_weight.
    """
    b = prepare(batch, finite=finite)
    state = state or ObjectiveState.start(objective)
    logprobs = b.need("logprobs", "the policy loss")
    b.need("advantages", "the policy loss (call rlalign.objective.advantages on the whole batch first)")
    assert b.valid is not None
    mask = b.action_mask & b.valid[:, None]
    per_token: Tensor = LOSSES.get(objective.loss)(objective, b)
    policy_term = per_token.detach()
    if objective.kl.where == "loss":
        ref = b.need("ref_logprobs", "KL in the loss")
        old = b.need("old_logprobs", "kl.importance") if objective.kl.importance != "none" else None
        per_token = per_token + state.kl_coef * in_loss(objective.kl, logprobs, ref, old, b.action_mask)
    if objective.regularizer.entropy_coef:
        per_token = per_token - objective.regularizer.entropy_coef * b.need("entropies", "the entropy bonus")
    count = aggregation.count(objective.aggregation, b)
    total = aggregation.total(objective.aggregation, per_token, b)
    if not measure:
        return LossSum(total, count, {})
    metrics, maxima = _metrics(objective, b, mask)
    metrics["pg_loss"] = (aggregation.total(objective.aggregation, policy_term, b), count)
    return LossSum(total, count, metrics, maxima)


def likelihood_count(objective: Objective, batch: Batch) -> Tensor:
    """The denominator that `likelihood_loss` will report for these rows: the tokens of the positive ones."""
    b = prepare(batch, finite=False)
    return aggregation.count("token_global", _positive(objective, b))


def likelihood_loss(objective: Objective, batch: Batch) -> LossSum:
    """- data.nll_coef · Σ log pi over the tokens of rows whose reward is above data.nll_above, and how many those are.

    L = -1 / Σ_{i in T} |o_i| · Σ_{i in T} Σ_t log pi, T the positive rows (VAPO, arXiv 2504.05118).
    """
    b = _positive(objective, prepare(batch, finite=False))
    nll = -b.need("logprobs", "the likelihood of positive samples")
    total, count = aggregation.total("token_global", nll, b), aggregation.count("token_global", b)
    return LossSum(objective.regularizer.nll_coef * total, count, {"positive_nll": (total.detach(), count)})


def _positive(objective: Objective, b: Batch) -> Batch:
    assert b.valid is not None
    return replace(b, valid=b.valid & (_raw_returns(b) > objective.regularizer.nll_above))


def surrogate(objective: Objective, batch: Batch) -> Tensor:
    """The policy term that ratio, trust and off_policy spell out, [N, T], to be minimised."""
    x = _trust_input(objective, batch)
    gain = TRUSTS.get(objective.trust.kind)(x, objective.trust)
    gain = gain[0] if isinstance(gain, tuple) else gain
    loss: Tensor = -gain * _off_policy(objective, batch)
    return loss


def value_loss(objective: Objective, batch: Batch, *, finite: bool = True) -> LossSum:
    """value.coef · ½ squared error of `values` (with gradient) to `returns`, clipped by value.clip; per token.

    Metrics: value_loss (without the coefficient), value, return, and value_error² and return² for explained variance.
    """
    b = prepare(batch, finite=finite)
    values, returns = b.need("values", "the value loss"), b.need("returns", "the value loss")
    old = b.need("old_values", "value.clip") if objective.value.clip > 0 else b.old_values
    loss = squared_error(values, returns, old, objective.value.clip)
    total, count = aggregation.total("token_global", loss, b), aggregation.count("token_global", b)

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        return aggregation.total("token_global", x.detach(), replace(b, weights=None)), count

    metrics = {
        "value_loss": summed(loss),
        "value": summed(values),
        "return": summed(returns),
        "return_squared": summed(returns.square()),
        "value_error_squared": summed((values - returns).square()),
    }
    return LossSum(objective.value.coef * total, count, metrics)


def _trust_input(objective: Objective, b: Batch) -> TrustInput:
    logprobs, gained = b.need("logprobs", "the policy loss"), b.need("advantages", "the policy loss")
    assert b.valid is not None
    mask = b.action_mask & b.valid[:, None]
    if objective.ratio == "none":
        one = torch.ones_like(logprobs)
        return TrustInput(one, torch.zeros_like(logprobs), gained, logprobs, mask, plain=True)
    log_ratio = logprobs - b.need("old_logprobs", f"ratio {objective.ratio}")
    return TrustInput(ratio(objective.ratio, log_ratio, b.action_mask), log_ratio, gained, logprobs, mask, plain=False)


def _off_policy(objective: Objective, b: Batch) -> Tensor | float:
    spec = objective.off_policy
    if spec.kind == "none":
        return 1.0
    logprobs, gained = b.need("logprobs", "off-policy correction"), b.need("advantages", "off-policy correction")
    old = logprobs if objective.ratio == "none" else b.need("old_logprobs", "off-policy correction")
    sampler = b.need("sampler_logprobs", "off-policy correction")
    return offpolicy.weights(spec, logprobs, old.detach(), sampler, gained, b.action_mask)


def _raw_returns(batch: Batch) -> Tensor:
    """[N]: the environment's reward of the episode, nothing added."""
    return batch.rewards if batch.rewards.ndim == 1 else batch.rewards.where(batch.action_mask, 0).sum(1)


@torch.no_grad()
def _metrics(
    objective: Objective, b: Batch, mask: Tensor
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    logprobs = b.need("logprobs", "the policy loss")
    tokens, rows = mask.sum().to(logprobs.dtype), mask.any(1).sum().to(logprobs.dtype)
    metrics: dict[str, tuple[Tensor, Tensor]] = {}
    maxima: dict[str, Tensor] = {}

    def per_token(name: str, x: Tensor) -> None:
        metrics[name] = (x.where(mask, 0).sum().to(logprobs.dtype), tokens)

    if b.entropies is not None:
        per_token("entropy", b.entropies)
    if b.ref_logprobs is not None:
        k1 = logprobs - b.ref_logprobs
        metrics["kl"] = (k1.where(mask, 0).sum(), rows)
        per_token("kl_k3", estimate("k3", k1))
        per_token("kl_clamped", (k1 < -LOG_LIMIT).to(logprobs.dtype))
    if b.sampler_logprobs is not None:
        drift = (logprobs - b.sampler_logprobs).abs()
        per_token("mismatch", drift)
        maxima["mismatch_max"] = drift.where(mask, 0).max()
    if objective.ratio != "none" and objective.loss == "surrogate":
        x = _trust_input(objective, b)
        per_token("ratio", x.ratio)
        maxima["ratio_max"] = x.ratio.where(mask, 0).max()
        gain = TRUSTS.get(objective.trust.kind)(x, objective.trust)
        if isinstance(gain, tuple):
            per_token("clip_fraction", gain[1].to(logprobs.dtype))
    if objective.off_policy.kind != "none" and objective.loss == "surrogate":
        weight = _off_policy(objective, b)
        assert isinstance(weight, Tensor)
        per_token("off_policy_weight", weight)
    return metrics, maxima
