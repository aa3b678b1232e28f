"""Linear layers of AdaLoRA: y = W x + b + (alpha / r₀) B diag(E) A x."""

from __future__ import annotations

from typing import Any

from peft.tuners.adalora.layer import SVDLinear
from torch import Tensor, nn
from torch.nn.functional import linear


class AdaLoraLinear(SVDLinear):  # type: ignore[misc]  # untyped in peft
    """peft's layer with a sum in place of its addition to the output of the base, which fast linear layers forbid."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what the layer of peft computes."""
        if args or kwargs or self.disable_adapters or self.merged or self.active_adapters != ["default"]:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        y: Tensor = self.base_layer(x)
        a, b = (matrix.to(x.dtype) for matrix in factors(self))
        return y + linear(linear(x, a), b).to(y.dtype)


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Return diag(E) A [r, in] and (alpha / r₀) B [out, r] of a layer, float32."""
    a = layer.lora_A["default"] * layer.lora_E["default"]
    # peft adds 1e-5 to the initial rank
    return a, layer.lora_B["default"] * (layer.scaling["default"] / (layer.ranknum["default"] + 1e-5))


def use_sums(model: nn.Module) -> None:
    """Make the layers of AdaLoRA over linear layers `AdaLoraLinear`, in place."""
    for module in model.modules():
        if type(module) is SVDLinear:
            module.__class__ = AdaLoraLinear
            # in bfloat16 peft rounds r₀, and makes it a trained parameter by moving it to the dtype of the base
            ranks: Any = module.ranknum
            ranks["default"] = nn.Parameter(ranks["default"].data.float(), requires_grad=False)
