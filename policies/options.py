"""Settings of a policy, for every kind of policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_range

_DTYPES = ("auto", "float32", "bfloat16")
_VALUES = ("none", "head", "model")


@dataclass(frozen=True)
class PolicyOptions:
    """Settings of a policy; each kind of policy ignores the settings that do not concern it."""

    lora_r: int | None = None
    """Rank of the LoRA adapters on all linear layers; 0: train every weight; None: 8 if pretrained, 0 from scratch."""
    lora_alpha: int = 16
    """The adapter's output is scaled by lora_alpha / lora_r."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision; auto: bfloat16 if the device multiplies it natively. Trained weights are float32 always."""
    value: Literal["none", "head", "model"] = "none"
    """Source of the values: none, a head on the policy's body, or a model of its own. A run takes it from
    --objective.value.kind."""
    value_detached: bool = False
    """Stop the gradient of the value loss at the head, so that only the head is trained by it."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of the layers in the update and recompute the rest: a third slower, for models that do not
    fit otherwise."""
    trust_remote_code: bool = False
    """Run the Python code in a hub model's repository. It can do anything that you can."""
    hidden_size: int = 64
    """Width of a policy from scratch (tiny, gru)."""
    layers: int = 2
    """Depth of a policy from scratch (tiny)."""

    def __post_init__(self) -> None:
        if self.lora_r is not None:
            check_range("lora_r", self.lora_r, least=0, fix="use a rank of 1 or more, or 0 to train every weight")
        if self.dtype not in _DTYPES:
            raise UserError(f"unknown dtype '{self.dtype}'.{did_you_mean(self.dtype, _DTYPES)}")
        if self.value not in _VALUES:
            raise UserError(f"unknown value '{self.value}'.{did_you_mean(self.value, _VALUES)}")
        # 16 is the width of an attention head of `tiny`
        if self.hidden_size < 16 or self.hidden_size % 16:
            raise UserError(f"hidden_size: expected a multiple of 16, got {self.hidden_size}; use 16, 32, 64, ...")
        check_range("layers", self.layers, least=1)
