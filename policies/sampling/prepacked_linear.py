"""Matrix products of a few rows with wide weights, prepared once per rollout: the main cost of a decode step.

On a CPU a weight is packed into the blocks that oneDNN multiplies. A product with it is 1.5 to 3 times as fast as x·Wᵀ
with the plain weight. Linear layers with the same input are one product. Low-rank adapters remain a separate product:
added to bfloat16 weights they would be rounded away, and frozen weights are packed only once. The magnitudes of DoRA
and the factors of IA3 multiply the output, those of IA3 on feed-forward layers the input:

    y = c ⊙ (W (d ⊙ x) + B A x) + b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.ia3.layer import Linear as Ia3Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from rlalign.policies.adapter_kinds.adalora import AdaLoraLinear, factors
from rlalign.policies.adapter_kinds.dora import DoraLinear, output_factor
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
        layers: nn.Linear, transformers' Conv1D, or a layer of peft around one of them; see `is_supported_linear`.
        dtype: of the product.

    Raises:
        NotImplementedError: layers of one product scale their inputs in different ways.
    """

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        self._layers = layers
        self._dtype = dtype
        self._bases = [_base(layer) for layer in layers]
        self._weight: PackedWeight | None = None
        self._lora_a: PackedWeight | None = None
        self._lora_b: PackedWeight | None = None
        self._bias: Tensor | None = None
        self._output_factor: Tensor | None = None
        self._input_factor: Tensor | None = None
        if len(layers) > 1 and any(_scales_input(layer) for layer in layers):
            raise NotImplementedError("one product of layers whose inputs IA3 scales")
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
            if sum(map(len, a)):
                self._lora_a = _assigned(self._lora_a, torch.cat(a).to(self._dtype))
                self._lora_b = _assigned(self._lora_b, torch.block_diag(*b).to(self._dtype))  # type: ignore[no-untyped-call]  # untyped in torch
            self._refresh_factors()

    def _refresh_factors(self) -> None:
        """Read the factors of outputs and inputs. Their tensors keep their addresses, which captured graphs hold."""
        outputs: list[Tensor] = []
        biases: list[Tensor] = []
        scaled = False
        for layer, base in zip(self._layers, self._bases, strict=True):
            factor = _output_factor(layer)
            scaled = scaled or factor is not None
            ones = torch.ones(len(_matrix(base)), device=base.weight.device)
            outputs.append(ones if factor is None else factor.float())
            bias = 0 * ones if base.bias is None else base.bias.detach().float()
            biases.append(bias * outputs[-1] if _scales_bias(layer) else bias)
        if scaled:
            whole = torch.cat(outputs).to(self._dtype)
            self._output_factor = whole if self._output_factor is None else self._output_factor.copy_(whole)
            if self._bias is not None:
                self._bias.copy_(torch.cat(biases))
        if _scales_input(self._layers[0]):
            layer = self._layers[0]
            inputs: Tensor = layer.ia3_l["default"].detach().flatten().to(self._dtype)
            self._input_factor = inputs if self._input_factor is None else self._input_factor.copy_(inputs)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the outputs of the layers for x [m, in], side by side, plus `residual`, whose dtype the sum has."""
        assert self._weight is not None, "refresh first"
        x = x.to(self._dtype)
        if self._input_factor is not None:
            x = x * self._input_factor
        if self._output_factor is not None:
            y = self._weight.matmul(x)
            if self._lora_a is not None and self._lora_b is not None:
                y = self._lora_b.matmul(self._lora_a.matmul(x), residual=y)
            y = y * self._output_factor
            y = y if self._bias is None else y + self._bias
            return y if residual is None else residual + y
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
    """Return True for a plain linear layer, alone or under one low-rank or IA3 adapter named "default"."""
    from peft.tuners.lora import Linear as PeftLinear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, BaseTunerLayer):
        if layer.disable_adapters or layer.merged or not is_supported_linear(layer.base_layer):
            return False
        if isinstance(layer, PeftLinear):
            single = list(layer.lora_A) == ["default"] == layer.active_adapters
            known = not layer.lora_variant or isinstance(layer, DoraLinear)
            return single and known and layer.lora_B["default"].bias is None
        names = layer.ia3_l if isinstance(layer, Ia3Linear) else getattr(layer, "lora_E", ())
        known = isinstance(layer, Ia3Linear | AdaLoraLinear)
        return known and list(names) == ["default"] == layer.active_adapters
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
    if isinstance(layer, AdaLoraLinear):
        u, v = factors(layer)
        return u.detach(), v.detach()
    if not hasattr(layer, "lora_A"):
        weight = _matrix(_base(layer))
        return weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0)
    b: Tensor = layer.lora_B["default"].weight.detach() * layer.scaling["default"]
    return layer.lora_A["default"].weight.detach(), b


def _output_factor(layer: Any) -> Tensor | None:
    """Return the factor [out] of a layer's output; None if it has none."""
    if isinstance(layer, DoraLinear):
        return output_factor(layer).detach()
    if isinstance(layer, Ia3Linear) and not layer.is_feedforward:
        factor: Tensor = layer.ia3_l["default"].detach().flatten()
        return factor
    return None


def _scales_input(layer: Any) -> bool:
    """Return True for IA3 on a feed-forward layer."""
    return isinstance(layer, Ia3Linear) and bool(layer.is_feedforward)


def _scales_bias(layer: Any) -> bool:
    """Return True if the factor of the output is that of the bias, too: for IA3, and not for DoRA."""
    return isinstance(layer, Ia3Linear) and not layer.is_feedforward


def _assigned(weight: PackedWeight | None, value: Tensor) -> PackedWeight:
    """Return the weight with a new value, made at the first call."""
    if weight is None:
        return PackedWeight(value)
    weight.assign(value)
    return weight
