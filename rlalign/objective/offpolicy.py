"""The off_policy axis: weights for tokens whose sampler had other probabilities than the learner, [N, T]."""

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
    """Return the factors of the policy term that correct for the sampler, float [N, T], without gradient.

    ::

        tis     min(w, high)                  truncated importance sampling (Ionides 2008)
        mis     w if low <= w <= high, else 0            masked importance sampling
        opsm    0 if A < 0 and (1/|y|) Σ_t (log sampler - log pi) > delta, else 1
                                              off-policy sequence mask (DeepSeek-V3.2, arXiv 2512.02556)

    w = pi_old / pi_sampler, of the token (level token) or as product over the row (level sequence). `policy_loss`
    passes log pi as log old if the objective has no ratio.

    Args:
        spec: kind, level, low, high and delta; kind none is an error.
        logprobs: float [N, T], log pi of each token; read by opsm alone.
        old_logprobs: float [N, T], log old.
        sampler_logprobs: float [N, T], log-probs under the sampler that drew the tokens.
        advantages: float [N, T]; read by opsm alone.
        mask: bool [N, T]. The other tensors are 0 where it is false.

    Raises:
        UnknownNameError: the kind is not tis, mis or opsm.
    """
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
