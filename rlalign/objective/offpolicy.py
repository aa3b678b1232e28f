"""The off_policy axis: weights for tokens whose sampler had other probabilities than the learner, [N, T].

w = pi_old / pi_sampler, of the token or of the sequence, without gradient. For an objective without a ratio, pi_old is
pi itself.

    tis    min(w, high)                          truncated importance sampling
    mis    w · 1[low <= w <= high]               masked importance sampling
    opsm   0 where A < 0 and mean_t(log sampler - log pi) > delta, else 1 (off-policy sequence mask, arXiv 2512.02556)
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.errors import UnknownNameError
from rlalign.objective.ratios import detached_product
from rlalign.objective.spec import OffPolicy

KINDS = ("none", "tis", "mis", "opsm")


def weights(
    spec: OffPolicy, logprobs: Tensor, old_logprobs: Tensor, sampler_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> Tensor:
    """Return the factors of the policy term, [N, T]. All tensors are [N, T] and 0 off the mask."""
    if spec.kind == "opsm":
        length = mask.sum(1).clamp(min=1)
        drift = (sampler_logprobs - logprobs.detach()).sum(1) / length
        return torch.where((advantages < 0) & (drift > spec.delta)[:, None], 0.0, 1.0).to(logprobs.dtype)
    w = detached_product(old_logprobs - sampler_logprobs, spec.level == "sequence")
    if spec.kind == "tis":
        return w.clamp(max=spec.high)
    if spec.kind == "mis":
        return torch.where((w >= spec.low) & (w <= spec.high), w, 0)
    raise UnknownNameError("off-policy correction", spec.kind, KINDS)
