"""What can be chosen about a policy, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlalign.errors import UserError, did_you_mean


@dataclass(frozen=True)
class PolicyOptions:
    """Settings of a policy; those that do not concern its kind are ignored by it."""

    lora_r: int | None = None
    """Rank of the LoRA adapters on all linear layers; 0: train every weight; None: 8 if pretrained, 0 from scratch."""
    lora_alpha: int = 16
    """The adapter's product is scaled by lora_alpha / lora_r."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision; auto: bfloat16 where the device is good at it. What the optimizer moves is float32 always."""
    value: Literal["none", "head", "model"] = "none"
    """What estimates values. A run takes it from --objective.value.kind."""
    value_detached: bool = False
    """Keep the value loss out of the body under the head: the head trains alone."""
    gradient_checkpointing: bool = False
    """Keep only the layers' inputs in the update and compute the rest again: a third slower, for models that do not
    fit otherwise."""
    trust_remote_code: bool = False
    """Run the Python that a hub model brings along. It can do anything that you can."""
    hidden_size: int = 64
    """Width of a policy from scratch (tiny, gru)."""
    layers: int = 2
    """Depth of a policy from scratch (tiny)."""

    def __post_init__(self) -> None:
        if self.lora_r is not None and self.lora_r < 0:
            raise UserError(f"lora_r is {self.lora_r}: give a rank of 1 or more, or 0 to train every weight")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise UserError(f"unknown dtype '{self.dtype}': auto, float32 or bfloat16")
        if self.value not in ("none", "head", "model"):
            raise UserError(f"unknown value '{self.value}'.{did_you_mean(self.value, ('none', 'head', 'model'))}")
        if self.hidden_size < 16 or self.hidden_size % 16:
            raise UserError(f"hidden_size is {self.hidden_size}: it must be a multiple of 16")
        if self.layers < 1:
            raise UserError(f"layers is {self.layers}: it must be at least 1")
