"""One layer of a `LeanModel`: norm, attention, norm, perceptron, with as few operations as there can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from rlalign.policies.sampling.prepacked_linear import Product


class Attend(Protocol):
    """Which slots of the cache the new tokens are written to, and which they see."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Write k and v [m, heads, width] of m new tokens, and return what q finds, [m, queries · width]."""
        ...


@dataclass(frozen=True)
class Column:
    """One new token a row, into slot `at` (a number, or a tensor [1] in a captured graph); it sees the first `used`
    slots, to which `hidden` [n · heads of keys, 1, used], 0 or -inf, is added."""

    at: int | Tensor
    used: int
    hidden: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """See `Attend`."""
        if isinstance(self.at, int):
            keys[..., self.at], values[:, :, self.at] = k, v
        else:
            keys.index_copy_(3, self.at, k[..., None])
            values.index_copy_(2, self.at, v[:, :, None])
        n, kv_heads, width = k.shape
        # the queries that share a key stand as positions of one head, so that keys and values need no repeating
        q, keys = q.reshape(n * kv_heads, -1, width), keys[..., : self.used].flatten(0, 1)
        if self.hidden is None:
            scores = torch.baddbmm(q.new_empty(1, 1, 1), q, keys, beta=0, alpha=scale)  # without the first
        else:
            scores = torch.baddbmm(self.hidden, q, keys, alpha=scale)
        return torch.bmm(scores.softmax(-1), values[:, :, : self.used].flatten(0, 1)).view(n, -1)


@dataclass(frozen=True)
class Block:
    """T new tokens a row, into slots `at` to `at` + T; `seen` [n, 1, T, slots] is true where one sees a slot."""

    at: int
    seen: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """See `Attend`."""
        n, _, count, slots = self.seen.shape
        q, k, v = (t.view(n, count, *t.shape[1:]) for t in (q, k, v))
        keys[..., self.at : slots], values[:, :, self.at : slots] = k.permute(0, 2, 3, 1), v.transpose(1, 2)
        keys, values = keys[..., :slots].transpose(2, 3).contiguous(), values[:, :, :slots]
        found = scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, self.seen, scale=scale, enable_gqa=q.shape[2] != k.shape[2]
        )
        return found.transpose(1, 2).reshape(n * count, -1)


class Norm:
    """Of a live module: LayerNorm where it has a bias, else x / sqrt(mean(x²) + eps) · weight."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._eps = float(module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps)
        self._epsilon = epsilon(module.weight, self._eps)

    def __call__(self, x: Tensor) -> Tensor:
        """x [m, d] normed."""
        if getattr(self._module, "bias", None) is not None:
            weight, bias = self._module.weight.to(x.dtype), self._module.bias.to(x.dtype)
            return layer_norm(x, x.shape[-1:], weight, bias, self._eps)
        return rms(x, self._module.weight, self._epsilon)


def epsilon(like: Tensor, eps: float) -> Tensor:
    """eps [1] in float32: a number in an operation is made a tensor each time, which costs as much as the operation."""
    return torch.full((1,), eps, dtype=torch.float32, device=like.device)


def rms(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, in float32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
    out: Tensor = (x * scale).mul_(weight)
    return out


@dataclass
class Layer:
    """h += out(attend(qkv(norm(h)))), h += down(act(up(norm(h)))), for rows h [m, d]."""

    qkv: Product
    out: Product
    up: Product
    down: Product
    before_attention: Norm
    before_perceptron: Norm
    act: Callable[[Tensor], Tensor]
    gated: bool  # up gives twice the width, and the act of one half is multiplied with the other
    queries: int
    kv_heads: int
    width: int
    scale: float
    head_norms: tuple[Any, Any] | None = None  # of queries and keys
    _head_norm: Tensor | None = None
    _head_epsilon: Tensor | None = None

    def refresh(self) -> None:
        """Take over the live weights."""
        for product in (self.qkv, self.out, self.up, self.down):
            product.refresh()
        if self.head_norms is not None:
            q, k = (n.weight.detach() for n in self.head_norms)
            both = torch.cat([q.expand(self.queries, -1), k.expand(self.kv_heads, -1)])
            if self._head_norm is None:
                self._head_norm, self._head_epsilon = both, epsilon(both, self.head_norms[0].variance_epsilon)
            else:
                self._head_norm.copy_(both)

    def step(
        self, h: Tensor, turn: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, attend: Attend
    ) -> Tensor:
        """The layer's output for m new tokens; their keys and values are added to the cache."""
        heads = self.queries + self.kv_heads
        qkv = self.qkv(self.before_attention(h)).view(len(h), -1, self.width)
        qk, v = qkv[:, :heads], qkv[:, heads:]
        if self._head_norm is not None and self._head_epsilon is not None:
            qk = rms(qk, self._head_norm, self._head_epsilon)
        if turn is not None:
            qk = _turned(qk, *turn)
        qk = qk.to(v.dtype)
        found = attend(qk[:, : self.queries], qk[:, self.queries :], v, keys, values, self.scale)
        h = self.out(found, onto=h)
        y = self.up(self.before_perceptron(h))
        if self.gated:
            gate, up = y.chunk(2, dim=-1)
            y = self.act(gate).mul_(up)
        else:
            y = self.act(y)
        return self.down(y, onto=h)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x·cos + (second half, first half)·sin, where the first half of sin is negative."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def llama_layer(layer: Any, dtype: torch.dtype) -> Layer:
    """Of a decoder layer of Llama, Qwen2 or Qwen3."""
    attn, mlp = layer.self_attn, layer.mlp
    width = attn.head_dim
    return Layer(
        qkv=Product([attn.q_proj, attn.k_proj, attn.v_proj], dtype),
        out=Product([attn.o_proj], dtype),
        up=Product([mlp.gate_proj, mlp.up_proj], dtype),
        down=Product([mlp.down_proj], dtype),
        before_attention=Norm(layer.input_layernorm),
        before_perceptron=Norm(layer.post_attention_layernorm),
        act=mlp.act_fn,
        gated=True,
        queries=attn.q_proj.out_features // width,
        kv_heads=attn.k_proj.out_features // width,
        width=width,
        scale=attn.scaling,
        head_norms=(attn.q_norm, attn.k_norm) if hasattr(attn, "q_norm") else None,
    )


def gpt2_layer(layer: Any, dtype: torch.dtype) -> Layer:
    """Of a block of GPT-2."""
    attn, mlp = layer.attn, layer.mlp
    act: nn.Module | Callable[[Tensor], Tensor] = mlp.act
    if type(act).__name__ == "NewGELUActivation":  # the same function in eight operations
        act = partial(gelu, approximate="tanh")
    return Layer(
        qkv=Product([attn.c_attn], dtype),
        out=Product([attn.c_proj], dtype),
        up=Product([mlp.c_fc], dtype),
        down=Product([mlp.c_proj], dtype),
        before_attention=Norm(layer.ln_1),
        before_perceptron=Norm(layer.ln_2),
        act=act,
        gated=False,
        queries=attn.num_heads,
        kv_heads=attn.num_heads,
        width=attn.head_dim,
        scale=attn.scaling,
    )
