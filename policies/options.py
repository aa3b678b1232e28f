"""Settings of a policy, for every kind of policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_range

_DTYPES = ("auto", "float32", "bfloat16")
_ON_ADAPTER = ("continue", "merge")
_MAX_RANK = 65_536  # above the width of every model, so that a higher rank could add nothing
_VALUES = ("none", "head", "model")


@dataclass(frozen=True)
class PolicyOptions:
    """Settings of a policy; each kind of policy ignores the settings that do not concern it."""

    lora_r: int | None = None
    """Rank of the LoRA adapters on all linear layers; 0: train every weight; None: 8 if pretrained, 0 from scratch."""
    lora_alpha: int = 16
    """Scale of the LoRA adapters: their output is multiplied by lora_alpha / lora_r."""
    on_adapter: Literal["continue", "merge"] | None = None
    """Use of a policy folder that is a PEFT adapter. continue: train that adapter; merge: add it to its base in float32
    and train the result as a model; None: continue, or merge if the adapter cannot be continued, such as with another
    lora_r. The reference policy is the adapter's model in either case."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. auto: float32 from scratch; for a pretrained model bfloat16 if the device multiplies it
    natively, else float32. Trained weights are float32 always."""
    value: Literal["none", "head", "model"] = "none"
    """Source of the values. none: no values; head: a head on the policy's body; model: a second body. A run takes it
    from --objective.value.kind."""
    value_detached: bool = False
    """Stop the gradient of the value loss at the head, so that only the head is trained by it."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of the layers in the update and recompute the rest: a third slower, for models that do not
    fit otherwise."""
    trust_remote_code: bool = False
    """Run the Python code in a hub model's repository. It can do anything that you can."""
    hidden_size: int = 64
    """Width of a policy from scratch (tiny, gru); a multiple of 16."""
    layers: int = 2
    """Number of transformer layers of a policy from scratch (tiny)."""

    def __post_init__(self) -> None:
        if self.lora_r is not None:
            check_range(
                "lora_r",
                self.lora_r,
                least=0,
                most=_MAX_RANK,
                fix="use a rank of 1 or more, or 0 to train every weight",
            )
        check_range("lora_alpha", self.lora_alpha, least=1, fix="an adapter of scale 0 has no effect: use 16")
        if self.on_adapter not in (None, *_ON_ADAPTER):
            raise UserError(f"unknown on_adapter '{self.on_adapter}'.{did_you_mean(self.on_adapter, _ON_ADAPTER)}")
        if self.dtype not in _DTYPES:
            raise UserError(f"unknown dtype '{self.dtype}'.{did_you_mean(self.dtype, _DTYPES)}")
        if self.value not in _VALUES:
            raise UserError(f"unknown value '{self.value}'.{did_you_mean(self.value, _VALUES)}")
        # 16 is the width of an attention head of `tiny`
        if self.hidden_size < 16 or self.hidden_size % 16:
            raise UserError(f"hidden_size: expected a multiple of 16, got {self.hidden_size}; use 16, 32, 64, ...")
        check_range("layers", self.layers, least=1)
