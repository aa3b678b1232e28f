"""The virtual tokens of prefix and prompt tuning, as keys and values that each context begins with.

The trained tensors of `prefix` are the keys and values themselves. Those of `prompt` are embeddings: the body reads
them once, and its cache is shared by all rows, because no virtual token depends on the context. A context of n tokens
is read behind a cache of p slots, at the positions p to p + n - 1, as peft does.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlalign.errors import UserError
from rlalign.policies.scoring.positions import thresholds


class VirtualTokens:
    """p virtual tokens before each context.

    Args:
        kind: prefix or prompt.
        encoder: peft's encoder, whose `embedding` holds the trained tensor.
        body: the body of the model, which reads the embeddings of prompt.

    Attributes:
        count: p.
        encoder: as passed.
    """

    def __init__(self, kind: str, encoder: Any, body: Any) -> None:
        self.kind = kind
        self.encoder = encoder
        self.count = int(encoder.embedding.weight.shape[0])
        self._body = body

    def frozen(self) -> VirtualTokens:
        """Return a frozen copy with the present values."""
        encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        return VirtualTokens(self.kind, encoder, self._body)

    def cache(self, rows: int) -> DynamicCache:
        """Return a new cache of `rows` rows that holds the virtual tokens, with gradient to the trained tensor."""
        weight: Tensor = self.encoder.embedding.weight
        layers = self._prefix(weight) if self.kind == "prefix" else self._read(weight)
        return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in layers])

    def _prefix(self, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
        config = self._body.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        # peft's layout: [p, layers · (key, value) · heads · width]
        parts = weight.to(_dtype(self._body)).view(self.count, config.num_hidden_layers, 2, heads, -1)
        parts = parts.permute(1, 2, 3, 0, 4)[:, :, None]  # [layers, 2, 1, heads, p, width]
        return [(part[0], part[1]) for part in parts]

    def _read(self, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = self._body(inputs_embeds=weight[None].to(_dtype(self._body)), use_cache=True)
        return [(layer.keys, layer.values) for layer in out.past_key_values.layers]


def virtual_tokens(model: Any, body: Any) -> VirtualTokens | None:
    """Return the virtual tokens of a peft model; None if its adapter adds none."""
    encoder = getattr(model, "prompt_encoder", None)
    if encoder is None:
        return None
    method = model.peft_config["default"].peft_type
    return VirtualTokens("prefix" if method == "PREFIX_TUNING" else "prompt", encoder["default"], body)


@torch.no_grad()
def initialize_from_tokens(model: Any) -> None:
    """Set new virtual tokens to drawn tokens of the vocabulary: their embeddings, or their keys and values.

    Values far from those of tokens disturb the policy before it has learned anything; Li and Liang (section 4.3) and
    Lester et al. (section 3.2) start from tokens for this reason.
    """
    config = model.peft_config["default"]
    lm = model.get_base_model()
    embedding = lm.get_input_embeddings()
    device = embedding.weight.device
    ids = torch.randint(embedding.weight.shape[0], (1, config.num_virtual_tokens), device="cpu").to(device)
    target: Tensor = model.prompt_encoder["default"].embedding.weight
    if config.peft_type == "PROMPT_TUNING":
        target.data = embedding.weight[ids[0]].detach().float().clone()
        return
    layers = lm(input_ids=ids, use_cache=True).past_key_values.layers
    tensors = [tensor[0] for layer in layers for tensor in (layer.keys, layer.values)]  # each [heads, p, width]
    target.data = torch.stack(tensors).permute(2, 0, 1, 3).reshape(target.shape).float().contiguous()


def refuse_for_virtual_tokens(lm: Any, kind: str) -> None:
    """Raise UserError for an architecture whose cache cannot begin with virtual tokens."""
    config = lm.config.get_text_config()
    reason = ""
    if thresholds(config):
        reason = f"one that reads contexts in another way beyond {thresholds(config)[0]} tokens"
    else:
        cache = _cache_of(lm)
        shapes = {tuple(t.shape) for layer in cache for t in (layer.keys, layer.values)} if cache else set()
        expected = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0)
        if len(shapes) != 1 or len(cache) != config.num_hidden_layers or next(iter(shapes))[1] != expected:
            reason = "one whose layers do not all keep keys and values of one shape"
    if reason:
        raise UserError(
            f"adapter.kind {kind}: expected an architecture whose layers keep plain keys and values, got "
            f"{type(lm).__name__}, {reason}; use --model.adapter.kind lora"
        )


@torch.no_grad()
def _cache_of(lm: Any) -> list[Any]:
    """Return the layers of the cache after one token; an empty list if there is no such cache."""
    ids = torch.zeros(1, 1, dtype=torch.int64, device=next(lm.parameters()).device)
    try:
        layers = lm(input_ids=ids, use_cache=True).past_key_values.layers
        return [layer for layer in layers if layer.keys.ndim == layer.values.ndim == 4]
    except (AttributeError, TypeError, NotImplementedError, RuntimeError):  # another kind of cache, or none
        return []


def _dtype(body: nn.Module) -> torch.dtype:
    """Return the dtype of the states of a body: that of its floating parameters."""
    return next(p.dtype for p in body.parameters() if p.is_floating_point())
