"""Products of a few rows with wide weights, prepared once per rollout: what a decode step spends its time on.

On a CPU a weight is packed into the blocks that oneDNN multiplies by; a product with it runs at one and a half to three
times the rate of x·Wᵀ on the plain weight. Linear layers of one input are one product. The adapters of LoRA stay apart,
as one product of low rank: added into bfloat16 weights they would be rounded away, and what is frozen is packed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rlalign.policies.scoring.linear import Linear

_ROWS = 32
"""Rows that weights are packed for; other numbers run at nearly the same rate."""
_SMALL = 1 << 17
"""Entries of a float32 weight up to which the plain product is the faster one: asking for the packed one costs more."""


def packs(device: torch.device) -> bool:
    """True where weights can be packed: on a CPU whose PyTorch has oneDNN's operators."""
    ops = ("_reorder_linear_weight", "_linear_pointwise")
    return device.type == "cpu" and torch._C._has_mkldnn and all(hasattr(_mkldnn(), op) for op in ops)


def _mkldnn() -> Any:
    return torch.ops.mkldnn


class Weight:
    """A matrix [out, in] to multiply rows by, in a format of its own: x [m, in] -> x Wᵀ [m, out]."""

    def __init__(self, value: Tensor) -> None:
        small = value.dtype == torch.float32 and value.numel() <= _SMALL
        self.packed = packs(value.device) and not small
        self.value = value
        self.set(value)

    def set(self, value: Tensor) -> None:
        """Take other numbers; an unpacked weight keeps its place in memory, which captured graphs remember."""
        if self.packed:
            self.value = _mkldnn()._reorder_linear_weight(value.contiguous(), _ROWS)
        elif self.value.data_ptr() != value.data_ptr():  # else it is the live weight itself, which writing would age
            self.value.copy_(value)

    def times(self, x: Tensor, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
        """x Wᵀ + bias + onto, for x [m, in]."""
        if not self.packed:
            if bias is None and onto is not None:
                return torch.addmm(onto, x, self.value.t())
            y = linear(x, self.value, bias)
            return y if onto is None else y.add_(onto)
        multiply = _mkldnn()._linear_pointwise
        if onto is None:
            out: Tensor = multiply(x, self.value, bias, "none", [], "")
        else:
            out = multiply.binary(x, onto, self.value, bias, "add")
        return out


class Product:
    """Linear layers of one input as one product over their weights as of the last `refresh`.

    Args:
        layers: nn.Linear, transformers' Conv1D, or peft's LoRA layer around one of them; see `is_known`.
        dtype: what to multiply in.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self._layers, self._dtype = layers, dtype
        self._bases = [_base(layer) for layer in layers]
        self._weight: Weight | None = None
        self._down: Weight | None = None
        self._up: Weight | None = None
        self._bias: Tensor | None = None
        self._clock = -1

    def refresh(self) -> None:
        """Read the layers' weights as they are now; frozen ones only when they were changed in place."""
        parameters = [p for base in self._bases for p in base.parameters()]
        frozen, clock = not any(p.requires_grad for p in parameters), sum(p._version for p in parameters)
        if clock != self._clock or not frozen:
            self._clock = clock
            values = [_matrix(base).to(self._dtype) for base in self._bases]
            value = values[0] if len(values) == 1 else torch.cat(values)
            self._weight = _put(self._weight, value)
            if frozen and not self._weight.packed:
                self._share(self._weight.value)
            if any(base.bias is not None for base in self._bases):
                widths = [m.shape[0] for m in values]
                biases = [
                    value.new_zeros(n) if base.bias is None else base.bias.to(self._dtype)
                    for base, n in zip(self._bases, widths, strict=True)
                ]
                bias = torch.cat(biases)
                self._bias = bias if self._bias is None else self._bias.copy_(bias)
        if any(hasattr(layer, "base_layer") for layer in self._layers):
            downs, ups = zip(*(_adapter(layer) for layer in self._layers), strict=True)
            self._down = _put(self._down, torch.cat(downs).to(self._dtype))
            self._up = _put(self._up, torch.block_diag(*ups).to(self._dtype))  # type: ignore[no-untyped-call]  # untyped in torch

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """What the layers make of x [m, in], side by side, and `onto` added in the dtype that it has."""
        assert self._weight is not None, "refresh first"
        x = x.to(self._dtype)
        joins = onto is not None and onto.dtype == self._dtype
        y = self._weight.times(x, self._bias, onto if joins else None)
        if self._down is not None and self._up is not None:
            y = self._up.times(self._down.times(x), onto=y)
        return y if onto is None or joins else onto + y

    def _share(self, fused: Tensor) -> None:
        """Let frozen layers be views of the fused weight, so that it is in memory once."""
        sizes = [_matrix(base).shape[0] for base in self._bases]
        for base, part in zip(self._bases, torch.split(fused, sizes), strict=True):
            if base.weight.dtype == fused.dtype:
                base.weight.data = part if isinstance(base, nn.Linear) else part.t()


def is_known(layer: nn.Module) -> bool:
    """True for what `Product` computes: a plain linear layer, alone or under one LoRA adapter named "default"."""
    from peft.tuners.lora import Linear as PeftLinear
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, PeftLinear):
        ordinary = not (layer.disable_adapters or layer.merged or layer.lora_variant)
        alone = list(layer.lora_A) == ["default"] == layer.active_adapters
        return ordinary and alone and layer.lora_B["default"].bias is None and is_known(layer.base_layer)
    return type(layer) in (nn.Linear, Linear, Conv1D)


def _base(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)


def _matrix(base: Any) -> Tensor:
    """The weight as [out, in]; Conv1D (GPT-2) holds it the other way round."""
    weight: Tensor = base.weight.detach()
    return weight if isinstance(base, nn.Linear) else weight.t()


def _adapter(layer: Any) -> tuple[Tensor, Tensor]:
    """(A [r, in], alpha / r · B [out, r]) of a layer; r is 0 where it has none."""
    if not hasattr(layer, "base_layer"):
        weight = _matrix(layer)
        return weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0)
    b: Tensor = layer.lora_B["default"].weight.detach() * layer.scaling["default"]
    return layer.lora_A["default"].weight.detach(), b


def _put(old: Weight | None, value: Tensor) -> Weight:
    if old is None:
        return Weight(value)
    old.set(value)
    return old
