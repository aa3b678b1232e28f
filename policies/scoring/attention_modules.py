"""Attention modules of known families over packed rows: transformers' result with fewer copies.

transformers applies rotary position embeddings in ten operations and their gradient in as many, most of them on halves
that are cut out and concatenated again. Here they are one autograd function. Heads stay in the memory layout that the
matrix products return.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlalign.policies.scoring.attention import packed_attention, unsupported_arguments

ATTENTION_MODULES = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention")
"""Modules of transformers that compute what `PackedAttention` computes."""


class _Rotary(torch.autograd.Function):
    """x [M, heads, e] rotated by its position, in halves along e (RoPE, Su et al. 2021, arXiv:2104.09864):

    y₁ = x₁ cos - x₂ sin,    y₂ = x₂ cos + x₁ sin

    cos, sin [M, 1, e] repeat each half. The gradient is the inverse rotation: the sign of sin changes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, -1.0).to(ctx.dtype), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    y: Tensor = x * cos
    # in place on the views of both halves: nothing is concatenated
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return y


class PackedAttention(nn.Module):
    """The computation of all `ATTENTION_MODULES` over one packed row; any other call goes to transformers' module."""

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
        """Compute what transformers' module computes; hidden_states are [1, M, d] if there is a packing."""
        packing = kwargs.get("packing")
        unsupported = (
            args
            or unsupported_arguments({**kwargs, "packing": None})
            or len(hidden_states) > 1
            or getattr(self, "sliding_window", None) is not None
        )
        if packing is None or position_embeddings is None or unsupported:
            output: tuple[Tensor, Tensor | None] = super().forward(
                hidden_states, position_embeddings, attention_mask, *args, **kwargs
            )
            return output
        x = hidden_states[0]
        cos, sin = (t[0][:, None] for t in position_embeddings)
        q, k, v = (p(x).view(len(x), -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)  # type: ignore[operator]  # of Qwen3 alone
        rotate: Callable[..., Tensor] = _Rotary.apply
        out = packed_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, packing, self.scaling)
        return self.o_proj(out.flatten(1)[None]), None


def use_packed_attention(module: nn.Module) -> None:
    """Make a module of `ATTENTION_MODULES` a `PackedAttention` too, in place."""
    kind: Any = type(module)
    module.__class__ = _packed_class(kind)


@cache
def _packed_class(kind: Any) -> Any:
    """Return a class that inherits from `PackedAttention` first and from a module class of transformers second."""

    def reduce(self: Any, _: Any) -> Any:
        # the class is an attribute of no module, so that pickle could not find it by name; it is built again instead
        return _new_instance, (kind,), self.__dict__

    namespace = {"__module__": __name__, "__reduce_ex__": reduce}
    return type(f"Packed{kind.__name__}", (PackedAttention, kind), namespace)


def _new_instance(kind: type) -> Any:
    packed = _packed_class(kind)
    return packed.__new__(packed)
