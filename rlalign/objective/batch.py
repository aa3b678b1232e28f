"""The only thing the objective sees: masked tensors of one batch. No model, no environment, no config.

Shapes: N sequences (trajectories), T token columns. What stands at column t belongs to the token at column t: its
log-prob, its reward, the value V(s_t) of the state before it. Columns outside `action_mask` (prompt, environment's
replies, padding) hold anything finite and count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from rlalign.errors import UserError


@dataclass(frozen=True, slots=True)
class Batch:
    """N trajectories as the objective sees them.

    Attributes:
        logprobs: float [N, T], log pi_theta of each action, with gradient. None until the policy has scored the batch.
        action_mask: bool [N, T], true where the policy chose the token.
        rewards: float [N], one return a trajectory, or [N, T], a reward on each token.
        group_ids: int64 [N], equal for samples of one prompt.
        terminated: bool [N], the episode ended by EOS or the environment (the value after it is 0).
        truncated: bool [N], a limit ended it (the value after it is bootstrapped).
        old_logprobs: float [N, T] under the policy at the start of the update; the denominator of the ratio.
        sampler_logprobs: float [N, T] under the sampler that drew the tokens.
        ref_logprobs: float [N, T] under the frozen reference.
        values: float [N, T], V_phi with gradient.
        old_values: float [N, T], V_phi at rollout.
        final_values: float [N], V_phi at rollout of the state after the last token: the bootstrap.
        entropies: float [N, T] of the policy's token distribution, with gradient.
        greedy_rewards: float [N], reward of the greedy rollout of the same prompt (ReMax).
        advantages: float [N, T], once computed; micro-batches carry it along.
        returns: float [N, T], the target of the value loss, once computed.
        valid: bool [N]; false where the reward failed: no gradient, no vote in any baseline.
        in_baseline: bool [N]; rows that vote in baselines. Filled in by `advantages`, whose `valid` may be narrower (a
            truncated sample that is dropped still votes).
        weights: float [N], sample weights; None means 1.
        ema: the moving-average baseline, when there is one yet. Filled in by `advantages`.
        max_length: the limit L_max of action tokens, for the constant aggregation and overlong shaping.
    """

    action_mask: Tensor
    rewards: Tensor
    group_ids: Tensor
    terminated: Tensor
    truncated: Tensor
    logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    sampler_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    old_values: Tensor | None = None
    final_values: Tensor | None = None
    entropies: Tensor | None = None
    greedy_rewards: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    valid: Tensor | None = None
    in_baseline: Tensor | None = None
    weights: Tensor | None = None
    ema: float | None = None
    max_length: int = 0

    def __len__(self) -> int:
        return int(self.action_mask.shape[0])

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor for those that are there."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """The rows of a slice, mask or index tensor."""
        return replace(self, **{name: v[rows] for name, v in self.tensors().items()})  # type: ignore[arg-type]  # fields by name

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        return replace(self, **{name: v.to(device) for name, v in self.tensors().items()})  # type: ignore[arg-type]  # fields by name

    def need(self, name: str, why: str) -> Tensor:
        """A tensor that must be there. Raises UserError naming it and who asked."""
        value = getattr(self, name)
        if value is None:
            raise UserError(f"the batch has no {name} [N, T], which {why} needs")
        assert isinstance(value, Tensor)
        return value


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss before it is divided: `total / count` is the loss, and only the learner divides, by the global count.

    Attributes:
        total: scalar with gradient, to be minimised.
        count: scalar without gradient: the denominator this batch contributes.
        metrics: name -> (sum, count), both scalars without gradient; summed over micro-batches, then divided.
        maxima: name -> scalar without gradient; the largest over micro-batches is kept.
    """

    total: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]
    maxima: dict[str, Tensor] = field(default_factory=dict)
