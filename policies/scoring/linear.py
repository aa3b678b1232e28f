"""Linear layers with the results of the stock ones, faster on the shapes that occur in training.

Three things are slow in eager PyTorch on a CPU:

- The product of a few dozen rows with a wide weight (a decoding step). In BLAS, W·xᵀ is two to three times faster than
  x·Wᵀ.
- The product of thousands of float32 rows. oneDNN is up to a tenth faster than the BLAS that PyTorch calls.
- LoRA as five separate operations with their own intermediate results. Here it is one autograd function that adds the
  adapter's product in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlalign.policies.scoring.attention_modules import ATTENTION_MODULES, use_packed_attention
from rlalign.policies.scoring.norm import RMS_NORM_MODULES, RMSNorm

_FEW_ROWS = 64
"""Rows up to which W·xᵀ is faster than x·Wᵀ on a CPU."""


def onednn_is_faster() -> bool:
    """Return True if oneDNN's product is available and the faster one: on a CPU with AVX.

    The operator is internal to PyTorch (for compiled models) and may be missing in another version.
    """
    available = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(available and torch.backends.cpu.get_cpu_capability().startswith("AVX"))


Originals = list[tuple[nn.Module, Any]]
"""Modules with the classes that `speed_up` replaced."""

_USE_ONEDNN = onednn_is_faster()


def matmul_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [m, k] · weightᵀ [k, n], by the fastest method of the machine. Not differentiable."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        if x.shape[0] <= _FEW_ROWS:
            return (weight @ x.t()).t()
        if _USE_ONEDNN:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            return out
    return x @ weight.t()


class Linear(nn.Linear):
    """nn.Linear, faster on a CPU. Differentiable once."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute what nn.Linear computes. An output of few rows may be stored column by column."""
        kind = input.device.type
        if kind != "cpu" or input.dtype != self.weight.dtype or torch.is_autocast_enabled(kind):
            return super().forward(input)
        apply: Callable[..., Tensor] = _LinearFunction.apply
        out = apply(input.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*input.shape[:-1], self.out_features)


class _LinearFunction(torch.autograd.Function):
    """y [m, n] = x [m, k] Wᵀ;    dx = dy W,    dW = dyᵀ x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul_transposed(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        dx = matmul_transposed(dy, weight.t()) if needs_x else None
        return dx, dy.t() @ x if needs_weight else None


class LoraLinear(PeftLinear):  # type: ignore[misc]  # untyped in peft
    """peft's LoRA layer as one function: y = W x + b + (alpha / r) B A x, with W and b frozen.

    Over bfloat16 weights the float32 adapters are rounded for the product. That costs little, because they are thin.
    Unusual cases (merged, several adapters, a variant) use peft's own implementation.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what peft's layer computes."""
        base = self.base_layer
        ordinary = (
            not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant)
            and "default" in self.lora_A
            and self.active_adapters == ["default"]
            and x.dtype == base.weight.dtype
        )
        if not ordinary:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        a = self.lora_A["default"].weight
        b = self.lora_B["default"].weight
        rows = x.reshape(-1, x.shape[-1])
        apply: Callable[..., Tensor] = _LoraFunction.apply
        y = apply(rows, base.weight, base.bias, a.to(x.dtype), b.to(x.dtype), self.scaling["default"])
        return y.view(*x.shape[:-1], y.shape[-1])


class _LoraFunction(torch.autograd.Function):
    """y [m, n] = x [m, k] Wᵀ + bias + s (x Aᵀ) Bᵀ; gradients to x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float) -> Tensor:
        u = matmul_transposed(x, a)
        # few rows are stored column by column and stay so: a copy would cost more than it saves
        y = matmul_transposed(x, w)
        y.addmm_(u, b.t(), alpha=s)
        if bias is not None:
            y += bias
        ctx.save_for_backward(x, u, w, a, b)
        ctx.s = s
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, u, w, a, b = ctx.saved_tensors
        v = (dy @ b).mul_(ctx.s)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ w
            dx.addmm_(v, a)
        return dx, None, None, v.t() @ x, (dy.t() @ u).mul_(ctx.s), None


def speed_up(model: nn.Module) -> Originals:
    """Replace the classes of a model's modules in place: nn.Linear by `Linear`, known norms by `RMSNorm`, known
    attention by `PackedAttention`, and peft's LoRA layers over nn.Linear by `LoraLinear`.

    Parameters, their names and saved files do not change.

    Returns:
        The changed modules with their original classes, for `restore_classes`.
    """
    originals: Originals = []
    for module in model.modules():
        kind: Any = type(module)
        if kind is nn.Linear:
            module.__class__ = Linear
        elif _is_transformers_module(module, RMS_NORM_MODULES):
            module.__class__ = RMSNorm
        elif _is_transformers_module(module, ATTENTION_MODULES):
            use_packed_attention(module)
        elif kind is PeftLinear and type(module.base_layer) in (nn.Linear, Linear) and _has_no_bias(module):
            # Conv1D (GPT-2), whose weight is [in, out], stays with peft
            module.__class__ = LoraLinear
        else:
            continue
        originals.append((module, kind))
    return originals


def _has_no_bias(layer: Any) -> bool:
    """Return True if the matrices B of a LoRA layer have no bias, which `LoraLinear` does not compute."""
    return all(b.bias is None for b in layer.lora_B.values())


def restore_classes(originals: Originals) -> None:
    """Undo `speed_up`."""
    for module, kind in originals:
        module.__class__ = kind


def _is_transformers_module(module: nn.Module, names: Sequence[str]) -> bool:
    """Return True for a module of transformers with one of the names; another library's may compute anything."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.startswith("transformers.models.")
