"""The attention modules of known families over packed rows: what transformers' own compute, with fewer copies.

There queries and keys are turned by their positions in ten operations and as many for the gradient, most of them on
halves that are cut out and put together again. Here it is one autograd function, and heads stay where the products
leave them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlalign.policies.scoring.packing import attended, unsupported_arguments

KNOWN = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention")
"""Modules of transformers that compute this."""


class _Rotated(torch.autograd.Function):
    """x [M, heads, e] turned by its position, in halves along e (RoPE, Su et al. 2021, arXiv:2104.09864):

    y₁ = x₁ cos - x₂ sin,    y₂ = x₂ cos + x₁ sin;    the gradient is turned back: cos, sin [M, 1, e] repeat each half.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1.0).to(ctx.dtype), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    y: Tensor = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return y


class PackedAttention(nn.Module):
    """What any of `KNOWN` computes, over one packed row; anything else goes transformers' own way."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    head_dim: int
    scaling: float

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers' module; hidden_states [1, M, d] where there is a packing."""
        packing = kwargs.get("packing")
        more = (
            args
            or unsupported_arguments({**kwargs, "packing": None})
            or len(hidden_states) > 1
            or getattr(self, "sliding_window", None) is not None
        )
        if packing is None or position_embeddings is None or more:
            own: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, position_embeddings, attention_mask, *args, **kwargs
            )
            return own
        x, (cos, sin) = hidden_states[0], (t[0][:, None] for t in position_embeddings)
        q, k, v = (p(x).view(len(x), -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)  # type: ignore[operator]  # of Qwen3 alone
        turned: Callable[..., Tensor] = _Rotated.apply
        out = attended(turned(q, cos, sin), turned(k, cos, sin), v, packing, self.scaling)
        return self.o_proj(out.flatten(1)[None]), None


def read_packed(module: nn.Module) -> None:
    """Let a module of `KNOWN` be a `PackedAttention` too, in place."""
    kind: Any = type(module)
    module.__class__ = _both(kind)


@cache
def _both(kind: Any) -> Any:
    def reduce(self: Any, _: Any) -> Any:  # no module holds this class, so that pickle is told how to make it again
        return _blank, (kind,), self.__dict__

    about = {"__module__": __name__, "__reduce_ex__": reduce}
    return type(f"Packed{kind.__name__}", (PackedAttention, kind), about)


def _blank(kind: type) -> Any:
    both = _both(kind)
    return both.__new__(both)
