"""The built-in policy term: ratio, trust region and off-policy weight of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective import offpolicy
from rlalign.objective.batch import Batch
from rlalign.objective.ratios import ratio
from rlalign.objective.registries import TRUSTS, custom_loss
from rlalign.objective.spec import Objective
from rlalign.objective.trust import TrustInput


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
