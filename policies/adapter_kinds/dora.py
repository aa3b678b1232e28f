"""Linear layers of DoRA: the trained magnitude of each output times the direction of the adapted weight.

    y = m / ‖W + s B A‖ · (W x + s B A x) + b,    ‖·‖ of each row (output), without gradient (section 4.3 of the paper)

peft computes the norm in the dtype of W, and a product of s B A with the identity for it in each pass. Here the norm is
in float32 and costs one product of B and A. The magnitude begins at the same norm, so that the factor is exactly 1 and
the initial policy is that without the adapter.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from rlalign.policies.quantized_base import QuantizedLinear


class DoraLinear(PeftLinear):  # type: ignore[misc]  # untyped in peft
    """peft's LoRA layer with DoRA over nn.Linear, Conv1D or a quantized layer. Unusual cases use peft's own pass."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what the layer of peft computes, with the norm in float32."""
        ordinary = not (args or kwargs or self.disable_adapters or self.merged)
        if not (ordinary and self.active_adapters == ["default"] and _has_no_bias(self)):
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        a = self.lora_A["default"].weight.to(x.dtype)
        b = self.lora_B["default"].weight.to(x.dtype)
        y = product(self.base_layer, x) + linear(linear(x, a), b) * self.scaling["default"]
        y = y * output_factor(self).to(x.dtype)
        bias = self.base_layer.bias
        sum_with_bias: Tensor = y if bias is None else y + bias
        return sum_with_bias


def output_factor(layer: Any) -> Tensor:
    """Return m / ‖W + s B A‖ [out] of a layer, float32, with gradient to m alone."""
    magnitude: Tensor = layer.lora_magnitude_vector["default"].weight
    return magnitude / adapted_norm(layer)


@torch.no_grad()
def adapted_norm(layer: Any) -> Tensor:
    """Return ‖W + s B A‖ [out] of a layer, float32."""
    a, b = (part["default"].weight.float() for part in (layer.lora_A, layer.lora_B))
    adapted = weight_matrix(layer.base_layer).float() + layer.scaling["default"] * (b @ a)
    norm: Tensor = torch.linalg.vector_norm(adapted, dim=1)
    return norm


def weight_matrix(base: Any) -> Tensor:
    """Return the weight of a linear layer as [out, in]; Conv1D (GPT-2) stores it as [in, out]."""
    if isinstance(base, QuantizedLinear):
        return base.dequantized()
    weight: Tensor = base.weight
    return weight if isinstance(base, nn.Linear) else weight.t()


def product(base: Any, x: Tensor) -> Tensor:
    """Return W x of a linear layer, without its bias, for x [..., in]."""
    if isinstance(base, QuantizedLinear):
        return base.product(x)
    return linear(x, weight_matrix(base))


def use_float32_norms(model: nn.Module, *, initial: bool) -> None:
    """Make the layers of DoRA over linear layers `DoraLinear`, in place.

    Args:
        model: a peft model.
        initial: set the magnitudes to the norms, which makes all factors 1.
    """
    for module in model.modules():
        if isinstance(module, PeftLinear) and "default" in module.lora_magnitude_vector:
            module.__class__ = DoraLinear
    if initial:
        reset_magnitudes(model)


def reset_magnitudes(model: nn.Module) -> None:
    """Set the magnitude of each `DoraLinear` of a model to its norm: the factor of each output is then 1."""
    for module in model.modules():
        if isinstance(module, DoraLinear):
            module.lora_magnitude_vector["default"].weight.data = adapted_norm(module)


def _has_no_bias(layer: Any) -> bool:
    return layer.lora_B["default"].bias is None
