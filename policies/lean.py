"""One decode step of a Llama-shaped model, by products that lie the way the machine likes them.

A step of n rows reads every weight once for little arithmetic, so its cost is the layout of its products and the number
of its operations. Here activations lie feature by feature, x [d, n]: W·x then runs at two to three times the rate of
x·Wᵀ. Queries, keys and values are one product, gate and up another; keys and values are written in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rlalign.policies.backbone import Backbone, CacheState

_FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROOM = 64
"""Slots that a full cache grows by."""


def is_lean(lm: Any) -> bool:
    """True for the models that `LeanBackbone` computes exactly: the known families, in float32 on a CPU."""
    config, weight = lm.config, lm.get_input_embeddings().weight
    return (
        type(lm).__name__ in _FAMILIES
        and type(lm).__module__.startswith("transformers.")
        and config.hidden_act == "silu"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
    )


class LeanBackbone(Backbone):
    """A backbone whose `advance` takes the short way; contexts are read by the transformers model.

    Args:
        lm: a model that `is_lean`, of which no weight trains. Its linear layers become views of the fused weights, so
            that what is written to them later is what decodes.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__(lm)
        body: Any = self.body
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, body.norm
        self._layers = [_Layer(layer) for layer in body.layers[: lm.config.num_hidden_layers]]

    def advance(self, state: CacheState, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        if not isinstance(state.cache, _Slots):
            state.cache = _Slots(state.cache)
        at = state.longest
        state.longest += 1
        self.check_length(state.longest)
        state.mask = state.appended(1)
        state.cache.make_room(state.longest)
        x = self._embed(tokens)
        cos, sin = (t[:, 0].t().contiguous() for t in self._rotary(x, state.positions[:, None]))
        x = x.t().contiguous()
        hidden = None if state.mask is None else torch.zeros(state.mask.shape).masked_fill_(~state.mask, -torch.inf)
        seen = None if hidden is None else hidden[:, None, None]
        for layer, keys, values in zip(self._layers, state.cache.keys, state.cache.values, strict=True):
            layer.step(x, cos, sin, keys, values, at, seen)
        state.positions = state.positions + 1
        return _rms(x, self._norm.weight[:, None], self._norm.variance_epsilon, 0).t()


class _Slots:
    """Keys and values [n, heads, slots, head_dim] of each layer, with room for tokens to come."""

    def __init__(self, cache: Any) -> None:
        self.keys = [layer.keys for layer in cache.layers]
        self.values = [layer.values for layer in cache.layers]

    def make_room(self, slots: int) -> None:
        """Let there be at least so many slots."""
        if slots > self.keys[0].shape[2]:
            self.keys, self.values = ([_grown(t) for t in ts] for ts in (self.keys, self.values))

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.keys, self.values = ([t[rows] for t in ts] for ts in (self.keys, self.values))


class _Layer:
    """A decoder layer: h += O·attend(norm(h)), h += D·(silu(G·norm(h)) * U·norm(h)), all [features, n]."""

    def __init__(self, layer: Any) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.qkv = _Fused(attn.q_proj, attn.k_proj, attn.v_proj)
        self.o, self.gate_up, self.down = _Fused(attn.o_proj), _Fused(mlp.gate_proj, mlp.up_proj), _Fused(mlp.down_proj)
        self.norms = [
            (n.weight[:, None], n.variance_epsilon) for n in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        self.width, self.scale = attn.head_dim, attn.scaling
        self.queries, self.shared = (p.out_features // self.width for p in (attn.q_proj, attn.k_proj))
        self.head_norm: tuple[Tensor, float] | None = None
        if hasattr(attn, "q_norm"):
            q, k = (n.weight.expand(m, -1) for n, m in ((attn.q_norm, self.queries), (attn.k_norm, self.shared)))
            self.head_norm = torch.cat([q, k])[:, :, None], attn.q_norm.variance_epsilon

    def step(
        self, h: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, at: int, seen: Tensor | None
    ) -> None:
        """Change h [d, n] to the layer's output for one new token a row, whose key and value go to slot `at`."""
        n, heads = h.shape[1], self.queries + self.shared
        qkv = self.qkv(_rms(h, *self.norms[0], 0)).view(-1, self.width, n)
        turned = qkv[:heads]
        if self.head_norm is not None:
            turned = _rms(turned, *self.head_norm, 1)
        turned = _rotate(turned, cos, sin)
        keys[:, :, at] = turned[self.queries :].permute(2, 0, 1)
        values[:, :, at] = qkv[heads:].permute(2, 0, 1)
        # the queries that share a key stand as positions of one head, so that keys and values need no repeating
        query = turned[: self.queries].permute(2, 0, 1).reshape(n, self.shared, -1, self.width)
        k, v = keys[:, :, : at + 1], values[:, :, : at + 1]
        scores = query.mul_(self.scale) @ k.transpose(-1, -2)
        mixed = (scores if seen is None else scores.add_(seen)).softmax(-1) @ v
        self.o.add_to(h, mixed.permute(1, 2, 3, 0).reshape(-1, n))
        gate, up = self.gate_up(_rms(h, *self.norms[1], 0)).chunk(2)
        self.down.add_to(h, silu(gate, inplace=True).mul_(up))


class _Fused:
    """Linear layers of one input as one product, their weights views of its weight."""

    def __init__(self, *parts: Any) -> None:
        sizes, width = [p.out_features for p in parts], parts[0].in_features
        # rows whose distance is a multiple of 1 KiB collide in the processor's cache: half the speed
        apart = width + 16 if width % 256 == 0 else width
        self.weight = parts[0].weight.new_empty(sum(sizes), apart)[:, :width]
        for part, view in zip(parts, self.weight.split(sizes), strict=True):
            part.weight = nn.Parameter(view.copy_(part.weight.detach()), requires_grad=False)
        self.bias: Tensor | None = None
        if any(p.bias is not None for p in parts):
            biases = [p.weight.new_zeros(p.out_features) if p.bias is None else p.bias.detach() for p in parts]
            self.bias = torch.cat(biases)[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.weight @ x
        if self.bias is not None:
            y += self.bias
        return y

    def add_to(self, h: Tensor, x: Tensor) -> None:
        h.addmm_(self.weight, x)
        if self.bias is not None:
            h += self.bias


def _rms(x: Tensor, weight: Tensor, eps: float, dim: int) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, the mean over `dim`."""
    out: Tensor = x * x.square().mean(dim, keepdim=True).add_(eps).rsqrt_()
    return out.mul_(weight)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of x [heads, width, n]: x·cos + (-second half, first half)·sin."""
    half = x.shape[1] // 2
    out = x * cos
    out[:, :half].addcmul_(x[:, half:], sin[:half], value=-1)
    out[:, half:].addcmul_(x[:, :half], sin[half:])
    return out


def _grown(t: Tensor) -> Tensor:
    n, heads, slots, width = t.shape
    out = t.new_empty(n, heads, slots + _ROOM, width)
    out[:, :, :slots] = t
    return out
