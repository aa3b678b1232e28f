"""The check that a sampler and the scores of a policy are of one distribution."""

from __future__ import annotations

import torch

from rlalign.errors import FaultError
from rlalign.policies.base import Policy
from rlalign.policies.memory import in_parts
from rlalign.rollout.collect import Rollout
from rlalign.types import Sampling

_LIMITS = {torch.float32: 1e-3}
_LIMIT_ROUNDED = 0.07
"""Mean |sampled - scored log-prob| per token, in nats. Rounding to bfloat16 explains up to 0.04, for routers of experts
and recurrent layers."""
_ENOUGH = 256
"""Tokens that are compared, in as few rows as hold them."""
_FEW = 64
"""Tokens whose mean is too noisy in a low precision to stop a run."""


def check_mismatch(mismatch: float, dtype: torch.dtype, where: str) -> None:
    """Raise FaultError if the mean difference of sampled and scored log-probs is more than rounding.

    Args:
        mismatch: mean |sampled - scored log-prob| per token, in nats.
        dtype: the compute dtype of the policy.
        where: the phase of the run, for the message.
    """
    if mismatch > _LIMITS.get(dtype, _LIMIT_ROUNDED):
        fix = "another policy" if dtype == torch.float32 else "--model.dtype float32"
        raise FaultError(
            f"expected sampled and scored log-probs to agree, got a difference of {mismatch:.3g} nats per token in "
            f"{where} in {str(dtype).removeprefix('torch.')}; use {fix}, and see rlalign check --as policy"
        )


@torch.no_grad()
def check_rollout(policy: Policy, rollout: Rollout, sampling: Sampling, where: str) -> None:
    """Score the first rows of a rollout and compare them with the sampler's log-probs.

    Args:
        policy: it drew the rollout and has not changed since.
        rollout: sequences, on the CPU.
        sampling: the distribution that the actions were drawn from.
        where: the phase of the run, for the message.

    Raises:
        FaultError: they differ by more than rounding.
    """

    def difference(rows: torch.Tensor) -> torch.Tensor:
        mask = rollout.action_mask[rows]
        scores = policy.score(rollout.tokens[rows], rollout.lengths[rows], mask, sampling)
        assert rollout.sampler_logprobs is not None  # it was sampled
        return (scores.logprobs.float().cpu() - rollout.sampler_logprobs[rows])[mask].abs()

    count = int((rollout.num_actions.cumsum(0) < _ENOUGH).sum()) + 1
    differences = torch.cat(in_parts(difference, torch.arange(min(count, len(rollout)))))
    if len(differences) >= (1 if policy.compute_dtype == torch.float32 else _FEW):
        check_mismatch(float(differences.mean()), policy.compute_dtype, where)
