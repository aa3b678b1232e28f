"""The data types of the objective: the masked tensors of one batch, and a loss as sum and count.

Shapes: N sequences (trajectories), T token columns. Every entry of column t belongs to the token at column t: its
log-prob, its reward, the value V(s_t) of the state before it. Columns outside `action_mask` (prompt, environment
messages, padding) may hold any numbers and do not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from rlalign.errors import UserError


@dataclass(frozen=True, slots=True)
class Batch:
    """N trajectories as the objective sees them.

    T are the columns of tokens. An entry at column t belongs to the token at column t: its log-prob, its reward, the
    value V(s_t) of the state before it. Columns outside `action_mask` (prompt, environment messages, padding) may hold
    any numbers and do not count. An objective reads some of the optional fields; if one of these is None, a `UserError`
    names it. A slice, mask or index tensor selects rows: `batch[rows]`.

    Attributes:
        action_mask: bool [N, T], true where the policy chose the token.
        rewards: float [N], one return per trajectory, or [N, T], a reward on each token.
        group_ids: int64 [N], equal for samples of one prompt.
        terminated: bool [N], the episode ended by EOS or the environment (the value after it is 0).
        truncated: bool [N], a limit ended it (the value after it is bootstrapped).
        logprobs: float [N, T], log pi of each action, with gradient. None until the policy has scored the batch.
        old_logprobs: float [N, T] under the policy at the start of the update; the denominator of the ratio.
        sampler_logprobs: float [N, T] under the sampler that drew the tokens.
        ref_logprobs: float [N, T] under the frozen reference.
        second_ref_logprobs: float [N, T] under a second frozen reference. The KL is then the mean of both.
        values: float [N, T], V with gradient.
        old_values: float [N, T], V at rollout.
        final_values: float [N], V at rollout of the state after the last token: the bootstrap.
        entropies: float [N, T] of the policy's token distribution, in nats, with gradient.
        greedy_rewards: float [N], reward of the greedy rollout of the same prompt (ReMax).
        reference_point: float [N], z0 of the loss kto: an estimate of KL(pi‖ref) of the batch, equal in all rows, from
            `rlalign.objective.reference_point`.
        advantages: float [N, T], once computed; micro-batches carry them along.
        returns: float [N, T], the target of the value loss, once computed.
        valid: bool [N], rows that enter the loss; false if the reward failed. None means all.
        in_baseline: bool [N], rows that enter baselines, scales and group comparisons. `compute_advantages` sets it to
            the `valid` that it was given, and may narrow `valid` afterwards: a truncated row that is dropped from the
            loss stays in the baseline.
        weights: float [N], sample weights; None means 1.
        ema: the moving-average baseline; None before the first step. Set while advantages are computed.
        max_length: the limit L_max of action tokens, for the constant aggregation and the overlong penalty.
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
    second_ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    old_values: Tensor | None = None
    final_values: Tensor | None = None
    entropies: Tensor | None = None
    greedy_rewards: Tensor | None = None
    reference_point: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    valid: Tensor | None = None
    in_baseline: Tensor | None = None
    weights: Tensor | None = None
    ema: float | None = None
    max_length: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return name -> tensor for the fields that are set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """Return the rows of a slice, mask or index tensor."""
        return replace(self, **{name: v[rows] for name, v in self.tensors().items()})  # type: ignore[arg-type]  # fields by name

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with each tensor on a device.

        Args:
            device: a torch device or its name.
        """
        return replace(self, **{name: v.to(device) for name, v in self.tensors().items()})  # type: ignore[arg-type]  # fields by name

    def references(self, purpose: str) -> list[Tensor]:
        """Return the log-probs of the reference policies, one or two tensors of shape [N, T].

        Args:
            purpose: what needs them, for the message.

        Raises:
            UserError: there is no reference.
        """
        second = self.second_ref_logprobs
        return [self.need("ref_logprobs", purpose), *([] if second is None else [second])]

    def need(self, name: str, purpose: str) -> Tensor:
        """Return a tensor of the batch.

        Args:
            name: of the field.
            purpose: the axis or loss that needs the tensor, for the message.

        Raises:
            UserError: the field is None.
        """
        value = getattr(self, name)
        if value is None:
            raise UserError(f"{purpose} needs {name}: expected a tensor in the batch, got None")
        assert isinstance(value, Tensor)
        return value


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss before the division: `total / count` is the loss. Only the learner divides, by the global count.

    Attributes:
        total: scalar with gradient, to be minimized.
        count: scalar without gradient: the denominator that these rows contribute.
        metrics: name -> (sum, count), both scalars without gradient; summed over micro-batches, then divided.
        maxima: name -> scalar without gradient; the largest over micro-batches is kept.
    """

    total: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]
    maxima: dict[str, Tensor] = field(default_factory=dict)
