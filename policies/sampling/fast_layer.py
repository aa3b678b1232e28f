"""One layer of a `FastDecoder`: norm, attention, norm, perceptron, in as few operations as possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from rlalign.policies.sampling.prepacked_linear import PrepackedLinear


class Attention(Protocol):
    """Attention of new tokens: the slots of the cache that they are written to, and the slots that they see."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Write k and v of m new tokens to the cache and return the attention output.

        Args:
            q: [m, query heads, width].
            k: [m, key heads, width].
            v: [m, key heads, width].
            keys: [n, key heads, width, slots], the cache of this layer.
            values: [n, key heads, slots, width], the cache of this layer.
            scale: factor of the scores.

        Returns:
            [m, query heads · width].
        """
        ...


@dataclass(frozen=True)
class StepAttention:
    """Attention of one new token per row.

    Attributes:
        slot: the slot to write to: a number, or a tensor [1] in a captured graph.
        used: the token sees the first `used` slots.
        mask: [n · key heads, 1, used], 0 or -inf, added to the scores; None adds nothing.
    """

    slot: int | Tensor
    used: int
    mask: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Write to the cache and attend; see `Attention`."""
        if isinstance(self.slot, int):
            keys[..., self.slot] = k
            values[:, :, self.slot] = v
        else:
            keys.index_copy_(3, self.slot, k[..., None])
            values.index_copy_(2, self.slot, v[:, :, None])
        n, kv_heads, width = k.shape
        # queries that share a key become positions of one head, so that keys and values need no repeating
        q = q.reshape(n * kv_heads, -1, width)
        keys = keys[..., : self.used].flatten(0, 1)
        if self.mask is None:
            # beta=0 ignores the first argument, which is therefore not initialized
            scores = torch.baddbmm(q.new_empty(1, 1, 1), q, keys, beta=0, alpha=scale)
        else:
            scores = torch.baddbmm(self.mask, q, keys, alpha=scale)
        return torch.bmm(scores.softmax(-1), values[:, :, : self.used].flatten(0, 1)).view(n, -1)


@dataclass(frozen=True)
class BlockAttention:
    """Attention of T new tokens per row, written to slots `start` to `slots` of n rows.

    Attributes:
        rows: n.
        start: the first slot to write to.
        slots: the slot after the last one.
        visible: bool [n, 1, T, slots], true where a token sees a slot. None: all slots hold tokens and `start` is 0, so
            that each token sees those up to itself.
    """

    rows: int
    start: int
    slots: int
    visible: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Write to the cache and attend; see `Attention`."""
        n, slots = self.rows, self.slots
        count = slots - self.start
        q, k, v = (t.view(n, count, *t.shape[1:]) for t in (q, k, v))
        keys[..., self.start : slots] = k.permute(0, 2, 3, 1)
        values[:, :, self.start : slots] = v.transpose(1, 2)
        keys = keys[..., :slots].transpose(2, 3)
        values = values[:, :, :slots]
        group = q.shape[2] // k.shape[2]
        if group > 1 and q.device.type == "cuda" and (self.visible is not None or q.dtype == torch.float32):
            # With a mask, or in float32, no fused kernel of CUDA takes keys that several query heads share. The
            # unfused one forms all scores: [n, query heads, T, slots].
            keys, values = (t.repeat_interleave(group, 1) for t in (keys, values))
            group = 1
        out = scaled_dot_product_attention(
            q.transpose(1, 2),
            keys.contiguous(),
            values,
            self.visible,
            is_causal=self.visible is None,
            scale=scale,
            enable_gqa=group > 1,
        )
        return out.transpose(1, 2).reshape(n * count, -1)


class Norm:
    """The norm of a module: LayerNorm if it has a bias, else x / sqrt(mean(x²) + eps) · weight."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._eps = float(module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps)
        self._epsilon = epsilon(module.weight, self._eps)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize x [m, d]."""
        if getattr(self._module, "bias", None) is not None:
            weight, bias = self._module.weight.to(x.dtype), self._module.bias.to(x.dtype)
            return layer_norm(x, x.shape[-1:], weight, bias, self._eps)
        return rms_norm(x, self._module.weight, self._epsilon)


def epsilon(like: Tensor, eps: float) -> Tensor:
    """Return eps as a float32 tensor [1].

    A Python number in an operation is converted to a tensor each time, which costs as much as the operation.
    """
    return torch.full((1,), eps, dtype=torch.float32, device=like.device)


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) · weight over the last dimension, in float32."""
    # the norm has its sum of squares in float32 without a float32 copy of x
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
    out: Tensor = (x * scale).mul_(weight)
    return out


@dataclass
class Layer:
    """h += out(attention(qkv(norm(h)))), h += down(act(up(norm(h)))), for rows h [m, d]."""

    qkv: PrepackedLinear
    out: PrepackedLinear
    up: PrepackedLinear
    down: PrepackedLinear
    attention_norm: Norm
    perceptron_norm: Norm
    act: Callable[[Tensor], Tensor]
    gated: bool  # up returns twice the width; the activation of one half is multiplied with the other
    query_heads: int
    kv_heads: int
    width: int  # of a head
    scale: float
    head_norms: tuple[Any, Any] | None = None  # modules, of queries and keys (Qwen3)
    _head_norm: Tensor | None = None
    _head_epsilon: Tensor | None = None

    def refresh(self) -> None:
        """Read the model's current weights."""
        for linear in (self.qkv, self.out, self.up, self.down):
            linear.refresh()
        if self.head_norms is not None:
            # one weight for queries and keys, [query heads + key heads, width], so that one operation does both
            q, k = (norm.weight.detach() for norm in self.head_norms)
            both = torch.cat([q.expand(self.query_heads, -1), k.expand(self.kv_heads, -1)])
            if self._head_norm is None:
                self._head_norm = both
                self._head_epsilon = epsilon(both, self.head_norms[0].variance_epsilon)
            else:
                self._head_norm.copy_(both)  # in place, because captured graphs hold its address

    def step(
        self, h: Tensor, rotation: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, attention: Attention
    ) -> Tensor:
        """Return the layer's output for m new tokens, and add their keys and values to the cache."""
        heads = self.query_heads + self.kv_heads
        qkv = self.qkv(self.attention_norm(h)).view(len(h), -1, self.width)
        qk, v = qkv[:, :heads], qkv[:, heads:]
        if self._head_norm is not None and self._head_epsilon is not None:
            qk = rms_norm(qk, self._head_norm, self._head_epsilon)
        if rotation is not None:
            qk = _rotate(qk, *rotation)
        qk = qk.to(v.dtype)
        out = attention(qk[:, : self.query_heads], qk[:, self.query_heads :], v, keys, values, self.scale)
        h = self.out(out, residual=h)
        y = self.up(self.perceptron_norm(h))
        if self.gated:
            gate, up = y.chunk(2, dim=-1)
            y = self.act(gate).mul_(up)
        else:
            y = self.act(y)
        return self.down(y, residual=h)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions: x·cos + (second half, first half)·sin, where the first half of sin is negative."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def llama_layer(layer: Any, dtype: torch.dtype) -> Layer:
    """Build the layer of a decoder layer of Llama, Qwen2 or Qwen3."""
    attn, mlp = layer.self_attn, layer.mlp
    width = attn.head_dim
    return Layer(
        qkv=PrepackedLinear([attn.q_proj, attn.k_proj, attn.v_proj], dtype),
        out=PrepackedLinear([attn.o_proj], dtype),
        up=PrepackedLinear([mlp.gate_proj, mlp.up_proj], dtype),
        down=PrepackedLinear([mlp.down_proj], dtype),
        attention_norm=Norm(layer.input_layernorm),
        perceptron_norm=Norm(layer.post_attention_layernorm),
        act=mlp.act_fn,
        gated=True,
        query_heads=attn.q_proj.out_features // width,
        kv_heads=attn.k_proj.out_features // width,
        width=width,
        scale=attn.scaling,
        head_norms=(attn.q_norm, attn.k_norm) if hasattr(attn, "q_norm") else None,
    )


def gpt2_layer(layer: Any, dtype: torch.dtype) -> Layer:
    """Build the layer of a block of GPT-2."""
    attn, mlp = layer.attn, layer.mlp
    act: nn.Module | Callable[[Tensor], Tensor] = mlp.act
    if type(act).__name__ == "NewGELUActivation":  # the same function, there in eight operations
        act = partial(gelu, approximate="tanh")
    return Layer(
        qkv=PrepackedLinear([attn.c_attn], dtype),
        out=PrepackedLinear([attn.c_proj], dtype),
        up=PrepackedLinear([mlp.c_fc], dtype),
        down=PrepackedLinear([mlp.c_proj], dtype),
        attention_norm=Norm(layer.ln_1),
        perceptron_norm=Norm(layer.ln_2),
        act=act,
        gated=False,
        query_heads=attn.num_heads,
        kv_heads=attn.num_heads,
        width=attn.head_dim,
        scale=attn.scaling,
    )
