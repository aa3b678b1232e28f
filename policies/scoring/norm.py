"""RMSNorm, x / sqrt(mean(x²) + eps) · w, and its gradient in a few operations; autograd uses about twenty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

RMS_NORM_MODULES = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Modules of transformers that compute this formula."""


class RMSNorm(nn.Module):
    """The computation of all `RMS_NORM_MODULES`, with their attributes. Differentiable once.

    Under a float32 weight, transformers rounds a half-precision result before it multiplies by the weight. This module
    does not round, which is more exact.
    """

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize in float32. Under a weight of lower precision the result is rounded to the input's dtype first."""
        x = hidden_states.float()
        if self.weight.dtype == torch.float32:
            apply: Callable[..., Tensor] = _RMSNormFunction.apply
            return apply(x, self.weight, self.variance_epsilon)
        n = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * n.to(hidden_states.dtype)


class _RMSNormFunction(torch.autograd.Function):
    """y = n · w, n = x · r, r = (mean(x²) + eps)^-½ over the last dimension d:

    dw = Σ_rows dy · n,    dx = r · (dy · w - n · (dy · n · w summed over d) / d)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        # vector_norm squared is Σ x² in one pass, without an intermediate x²
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        n = x * r
        ctx.save_for_backward(n, r, weight)
        y: Tensor = n * weight
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (dy,) = grads
        n, r, weight = ctx.saved_tensors
        dy_n = dy * n  # used for both gradients
        dx = (dy * weight).addcmul_(n, (dy_n @ weight)[..., None], value=-1 / n.shape[-1]).mul_(r)
        return dx, dy_n.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None
