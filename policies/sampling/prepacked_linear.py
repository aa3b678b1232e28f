"""Matrix products of a few rows with wide weights, prepared once per rollout: the main cost of a decode step.

On a CPU a weight is packed into the blocks that oneDNN multiplies. A product with it is 1.5 to 3 times as fast as x·Wᵀ
with the plain weight. Linear layers with the same input are one product. LoRA adapters remain a separate product of low
rank: added to bfloat16 weights they would be rounded away, and frozen weights are packed only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlalign.policies.scoring.linear import Linear

_ROWS = 32
"""Rows that weights are packed for; other numbers of rows have nearly the same speed."""
_SMALL = 1 << 17
"""Entries of a float32 weight up to which the plain product is faster: the call of the packed one costs more."""


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if weights can be packed: on a CPU that oneDNN supports in this dtype."""
    ops = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if device.type != "cpu" or not torch._C._has_mkldnn or not all(hasattr(_mkldnn(), op) for op in ops):
        return False
    # oneDNN refuses bfloat16 on a CPU that has neither AVX-512 nor AVX-NE-CONVERT
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _mkldnn()._is_mkldnn_bf16_supported())


def _mkldnn() -> Any:
    return torch.ops.mkldnn


class PackedWeight:
    """A matrix [out, in] in the fastest format for x [m, in] -> x Wᵀ [m, out].

    Attributes:
        packed: true if `value` is in oneDNN's format.
        value: the matrix.
    """

    def __init__(self, value: Tensor) -> None:
        small = value.dtype == torch.float32 and value.numel() <= _SMALL
        self.packed = can_prepack(value.device, value.dtype) and not small
        self.value = value
        self.assign(value)

    def assign(self, value: Tensor) -> None:
        """Replace the matrix. An unpacked one keeps its address in memory, which captured graphs hold."""
        if self.packed:
            self.value = _mkldnn()._reorder_linear_weight(value.contiguous(), _ROWS)
        elif self.value.data_ptr() != value.data_ptr():
            # else `value` is the model's weight itself, and writing would increase its version counter
            self.value.copy_(value)

    def matmul(self, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Return x Wᵀ + bias + residual, for x [m, in]."""
        if not self.packed:
            if bias is None and residual is not None:
                return torch.addmm(residual, x, self.value.t())
            y = linear(x, self.value, bias)
            return y if residual is None else y.add_(residual)
        multiply = _mkldnn()._linear_pointwise
        if residual is None:
            out: Tensor = multiply(x, self.value, bias, "none", [], "")
        else:
            out = multiply.binary(x, residual, self.value, bias, "add")
        return out


class PrepackedLinear:
    """Linear layers with the same input as one matrix product, with their weights as of the last `refresh`.

    Args:
        layers: nn.Linear, transformers' Conv1D, or peft's LoRA layer around one of them; see `is_supported_linear`.
        dtype: of the product.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self._layers = layers
        self._dtype = dtype
        self._bases = [_base(layer) for layer in layers]
        self._weight: PackedWeight | None = None
        self._lora_a: PackedWeight | None = None
        self._lora_b: PackedWeight | None = None
        self._bias: Tensor | None = None
        self._version = -1

    def refresh(self) -> None:
        """Read the current weights of the layers; frozen ones only if they were changed in place."""
        parameters = [p for base in self._bases for p in base.parameters()]
        frozen = not any(p.requires_grad for p in parameters)
        # autograd counts the in-place changes of each tensor; the sum increases with each of them
        version = sum(p._version for p in parameters)
        if version != self._version or not frozen:
            values = [_matrix(base).to(self._dtype) for base in self._bases]
            value = values[0] if len(values) == 1 else torch.cat(values)
            self._weight = _assigned(self._weight, value)
            if frozen and not self._weight.packed:
                self._share(self._weight.value)
            if any(base.bias is not None for base in self._bases):
                widths = [matrix.shape[0] for matrix in values]
                biases = [
                    value.new_zeros(width) if base.bias is None else base.bias.to(self._dtype)
                    for base, width in zip(self._bases, widths, strict=True)
                ]
                bias = torch.cat(biases)
                self._bias = bias if self._bias is None else self._bias.copy_(bias)
            self._version = version  # last: after an error halfway, all of it is read again
        if any(hasattr(layer, "base_layer") for layer in self._layers):
            # A's are stacked and B's block-diagonal, so that each layer's B multiplies its own A only
            a, b = zip(*(_adapter(layer) for layer in self._layers), strict=True)
            self._lora_a = _assigned(self._lora_a, torch.cat(a).to(self._dtype))
            self._lora_b = _assigned(self._lora_b, torch.block_diag(*b).to(self._dtype))  # type: ignore[no-untyped-call]  # untyped in torch

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the outputs of the layers for x [m, in], side by side, plus `residual`, whose dtype the sum has."""
        assert self._weight is not None, "refresh first"
        x = x.to(self._dtype)
        same_dtype = residual is not None and residual.dtype == self._dtype
        y = self._weight.matmul(x, self._bias, residual if same_dtype else None)
        if self._lora_a is not None and self._lora_b is not None:
            y = self._lora_b.matmul(self._lora_a.matmul(x), residual=y)
        return y if residual is None or same_dtype else residual + y

    def _share(self, fused: Tensor) -> None:
        """Make frozen layers views of the fused weight, so that it is in memory once."""
        sizes = [_matrix(base).shape[0] for base in self._bases]
        for base, part in zip(self._bases, torch.split(fused, sizes), strict=True):
            if base.weight.dtype == fused.dtype:
                base.weight.data = part if isinstance(base, nn.Linear) else part.t()


def is_supported_linear(layer: nn.Module) -> bool:
    """Return True for a plain linear layer, alone or under one LoRA adapter named "default"."""
    from peft.tuners.lora import Linear as PeftLinear
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, PeftLinear):
        standard = not (layer.disable_adapters or layer.merged or layer.lora_variant)
        single = list(layer.lora_A) == ["default"] == layer.active_adapters
        return standard and single and layer.lora_B["default"].bias is None and is_supported_linear(layer.base_layer)
    return type(layer) in (nn.Linear, Linear, Conv1D)


def _base(layer: Any) -> Any:
    """Return the linear layer under an adapter, or the layer itself."""
    return getattr(layer, "base_layer", layer)


def _matrix(base: Any) -> Tensor:
    """Return the weight as [out, in]; Conv1D (GPT-2) stores it as [in, out]."""
    weight: Tensor = base.weight.detach()
    return weight if isinstance(base, nn.Linear) else weight.t()


def _adapter(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and alpha / r · B [out, r] of a layer; r is 0 without an adapter."""
    if not hasattr(layer, "base_layer"):
        weight = _matrix(layer)
        return weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0)
    b: Tensor = layer.lora_B["default"].weight.detach() * layer.scaling["default"]
    return layer.lora_A["default"].weight.detach(), b


def _assigned(weight: PackedWeight | None, value: Tensor) -> PackedWeight:
    """Return the weight with a new value, made at the first call."""
    if weight is None:
        return PackedWeight(value)
    weight.assign(value)
    return weight
