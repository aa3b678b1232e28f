"""One rollout between its collection and its last update: tensors, planned minibatches, position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlalign.objective import Batch

_RENAMED = {"voters": "in_baseline"}
"""Tensor names in checkpoints of format 1 -> names today."""


@dataclass
class UpdateBuffer:
    """The tensors of one rollout, the minibatches planned from it, and how many of them are done.

    The buffer is part of a checkpoint, so a run can stop between two updates of one rollout. The layout of the rows
    (`tokens`, `lengths`, `mask`) stays on the CPU, where reading it does not wait for a device.

    Attributes:
        tokens: int64 [N, L], contexts right-padded.
        lengths: int64 [N].
        mask: bool [N, L], true where the policy chose the token.
        batch: the same rows as the objective reads them, on the policy's device, advantages included.
        plan: row indices of each planned update.
        position: updates done.
        component_means: reward component -> mean over everything that was sampled for this rollout; the multipliers of
            constraints follow it after the last update. None when the multipliers have moved already.
        sampled_by_policy: the policy sampled the rows, so that their log-probs must agree with its scores. False for
            recorded rows.
    """

    tokens: Tensor
    lengths: Tensor
    mask: Tensor
    batch: Batch
    plan: list[Tensor]
    position: int = 0
    component_means: Mapping[str, float] | None = None
    sampled_by_policy: bool = True

    @property
    def done(self) -> bool:
        """Whether all updates of this rollout are done."""
        return self.position >= len(self.plan)

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer as tensors and JSON values."""
        return {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "batch": self.batch.tensors(),
            "max_length": self.batch.max_length,
            "plan": self.plan,
            "position": self.position,
            "component_means": self.component_means,
            "sampled_by_policy": self.sampled_by_policy,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> UpdateBuffer:
        """Return the buffer of a state, with the objective's tensors on a device.

        Args:
            state: of `state_dict`.
            device: of the policy.
        """
        tensors = {_RENAMED.get(name, name): tensor for name, tensor in state["batch"].items()}
        batch = Batch(**tensors, max_length=state["max_length"])
        return cls(
            tokens=state["tokens"].cpu(),
            lengths=state["lengths"].cpu(),
            mask=batch.action_mask.cpu(),
            batch=batch.to(device),
            plan=state["plan"],
            position=state["position"],
            component_means=state.get("component_means"),
            sampled_by_policy=state.get("sampled_by_policy", True),
        )
