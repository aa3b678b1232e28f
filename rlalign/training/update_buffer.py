"""A rollout that is being learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlalign.objective import Batch


@dataclass
class Buffer:
    """A rollout being learnt from: the tensors of the objective, the minibatches to come, and how far we are.

    It is part of a checkpoint, so that a run may stop between two updates of one rollout. What says how rows are laid
    out (`tokens`, `lengths`, `mask`) stays on the CPU, where it can be looked at without waiting for a device.
    """

    tokens: Tensor
    lengths: Tensor
    mask: Tensor
    batch: Batch
    plan: list[Tensor]
    position: int = 0

    @property
    def done(self) -> bool:
        """All updates of this rollout are made."""
        return self.position >= len(self.plan)

    def state_dict(self) -> dict[str, Any]:
        """The buffer as tensors and JSON values."""
        return {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "batch": self.batch.tensors(),
            "max_length": self.batch.max_length,
            "plan": self.plan,
            "position": self.position,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Buffer:
        """The buffer of a stored state, on a device."""
        batch = Batch(**state["batch"], max_length=state["max_length"])
        tokens, lengths, mask = state["tokens"].cpu(), state["lengths"].cpu(), batch.action_mask.cpu()
        return cls(tokens, lengths, mask, batch.to(device), state["plan"], state["position"])
