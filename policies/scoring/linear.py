"""Linear layers that compute what the stock ones do, faster on the shapes that occur here.

Three things are slow in eager PyTorch on a CPU: the product of a few dozen rows with a wide weight (a decode step;
asking BLAS for W·xᵀ rather than x·Wᵀ is two to three times faster), that of thousands of float32 rows, for which oneDNN
is up to a tenth faster than the BLAS that PyTorch asks, and LoRA as five separate operations with their own
intermediate results (here one autograd function that adds the adapter's product in place).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlalign.policies.scoring.attention import KNOWN, read_packed
from rlalign.policies.scoring.norm import PLAIN, RMSNorm

_THIN = 64
"""Rows up to which the turned product is the faster one on a CPU."""


def onednn() -> bool:
    """True where oneDNN's product can be asked for, and is the faster one: on a CPU with AVX.

    The operator is PyTorch's own, for compiled models, and may be gone in another version.
    """
    found = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(found and torch.backends.cpu.get_cpu_capability().startswith("AVX"))


_ONEDNN = onednn()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [m, k] · weightᵀ [k, n], in the way in which the machine is the fastest. Autograd does not see through it."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        if x.shape[0] <= _THIN:
            return (weight @ x.t()).t()
        if _ONEDNN:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            return out
    return x @ weight.t()


class Linear(nn.Linear):
    """nn.Linear that is faster on a CPU. Differentiable once."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Linear; a thin output may lie column by column in memory."""
        kind = input.device.type
        if kind != "cpu" or input.dtype != self.weight.dtype or torch.is_autocast_enabled(kind):
            return super().forward(input)
        apply: Callable[..., Tensor] = _Product.apply
        out = apply(input.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*input.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """y [m, n] = x [m, k] Wᵀ;    dx = dy W,    dW = dyᵀ x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        return product(dy, weight.t()) if wants_x else None, dy.t() @ x if wants_weight else None


class LoraLinear(PeftLinear):  # type: ignore[misc]  # untyped in peft
    """peft's LoRA layer in one step: y = W x + b + (alpha / r) B A x, with W and b frozen.

    Over weights in bfloat16 the float32 adapters are rounded to it for the product, which costs little: they are thin.
    Anything out of the ordinary (merged, several adapters, a variant) goes peft's own way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As peft's layer."""
        base = self.base_layer
        a, b = (
            (self.lora_A["default"].weight, self.lora_B["default"].weight) if "default" in self.lora_A else (None, None)
        )
        plain = (
            not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant)
            and a is not None
            and self.active_adapters == ["default"]
            and x.dtype == base.weight.dtype
        )
        if not plain:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        flat = x.reshape(-1, x.shape[-1])
        apply: Callable[..., Tensor] = _LoraProduct.apply
        assert a is not None
        assert b is not None
        y = apply(flat, base.weight, base.bias, a.to(x.dtype), b.to(x.dtype), self.scaling["default"])
        return y.view(*x.shape[:-1], y.shape[-1])


class _LoraProduct(torch.autograd.Function):
    """y [m, n] = x [m, k] Wᵀ + bias + s (x Aᵀ) Bᵀ; gradients to x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float) -> Tensor:
        u = product(x, a)
        y = product(x, w)  # a thin one lies column by column, and stays so: copying it would cost more than it saves
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


def speed_up(model: nn.Module) -> None:
    """Let every plain nn.Linear of a model be a `Linear`, norms that are known an `RMSNorm`, and known attention read
    packed rows by itself, in place; parameters, names and files stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
        elif _is_one(module, PLAIN):
            module.__class__ = RMSNorm
        elif _is_one(module, KNOWN):
            read_packed(module)


def _is_one(module: nn.Module, names: Sequence[str]) -> bool:
    """True for a module of transformers with one of these names; one that shares its name may compute anything."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.startswith("transformers.models.")
