"""Decoder-only transformers of the supported families (Llama, Qwen2, Qwen3, GPT-2), written for decoding.

A step of n rows reads every weight once for little arithmetic, so its cost is the rate of its matrix products and the
number of its operations. Queries, keys and values are one matrix product, gate and up another; keys and values are
written in place. Linear weights are those of the model as of the last `refresh`. Norms and embeddings are the model's
own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import check_contexts
from rlalign.policies.sampling.fast_layer import BlockAttention, Norm, StepAttention, gpt2_layer, llama_layer
from rlalign.policies.sampling.library_decoder import left_padded
from rlalign.policies.sampling.prepacked_linear import PrepackedLinear, is_supported_linear
from rlalign.policies.sampling.sampler import CachedPrefix

_FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel")
_OURS = ("rlalign.policies.scoring.linear", "rlalign.policies.scoring.norm", "rlalign.policies.scoring.attention")
_ADAPTERS = ("peft.tuners.lora.", "peft.tuners.adalora.", "peft.tuners.ia3.", "rlalign.policies.adapter_kinds.")
_MODULES = ("transformers.", "torch.nn.", *_ADAPTERS, *_OURS)
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose frequencies do not depend on the length of the context."""
_PIECE_TOKENS = 8192
"""Padded tokens that are read at once on CUDA: enough to occupy it, in memory that does not grow with the rows."""
_GROWTH = 32
"""Slots that a full cache grows by at least; else a quarter of its slots."""


def is_supported(lm: Any) -> bool:
    """Return True if `FastDecoder` computes the model exactly: a supported family with no module changed."""
    config = lm.config
    if type(lm).__name__ not in _FAMILIES or not all(type(m).__module__.startswith(_MODULES) for m in lm.modules()):
        return False
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    # linear layers, an adapted one as a whole and without the linear layers inside it
    adapted = [m for m in lm.modules() if hasattr(m, "base_layer")]
    inside = {id(part) for m in adapted for part in m.modules()} - {id(m) for m in adapted}
    linears = [m for m in lm.modules() if id(m) not in inside and (isinstance(m, nn.Linear) or m in adapted)]
    return (
        set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and rotary in _FIXED_ROTARY
        and not getattr(config, "add_cross_attention", False)
        and all(map(is_supported_linear, linears))
    )


class KVCache:
    """Keys and values of n contexts that end in the same slot, with free slots for further tokens.

    Attributes:
        keys: [layers, n, heads, width, slots].
        values: [layers, n, heads, slots, width].
        mask: additive attention mask [n, slots], -inf before the start of a context and 0 elsewhere; None if all
            contexts start at slot 0.
        positions: int64 [n], lengths of the contexts.
        used: number of slots in use.
    """

    def __init__(self, keys: Tensor, values: Tensor, mask: Tensor | None, positions: Tensor, used: int) -> None:
        self.keys = keys
        self.values = values
        self.mask = mask
        self.positions = positions
        self.used = used

    def part(self, start: int, stop: int) -> KVCache:
        """Return the rows from `start` to `stop`. Keys and values are views: writing to them writes to this cache."""
        mask = None if self.mask is None else self.mask[start:stop]
        keys, values = self.keys[:, start:stop], self.values[:, start:stop]
        return KVCache(keys, values, mask, self.positions[start:stop], self.used)

    def take(self, rows: Tensor) -> KVCache:
        """Return a copy of the given rows, in order."""
        mask = None if self.mask is None else self.mask[rows]
        keys, values = (t.index_select(1, rows) for t in (self.keys, self.values))
        return KVCache(keys, values, mask, self.positions[rows], self.used)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.__dict__.update(vars(self.take(rows)))

    def reserve(self, slots: int) -> None:
        """Grow to at least `slots` slots."""
        size = self.values.shape[3]
        if slots > size:
            # more than requested, because growing copies the cache
            padding = (0, slots + max(_GROWTH, slots // 4) - size)
            self.keys = nn.functional.pad(self.keys, padding)
            self.values = nn.functional.pad(self.values, (0, 0, *padding))
            self.mask = None if self.mask is None else nn.functional.pad(self.mask, padding)


class FastDecoder:
    """A model that `is_supported`, for decoding.

    Args:
        lm: the transformers model.
        dtype: of the matrix products. Between the layers numbers are float32, which halves the rounding error of
            bfloat16.
    """

    def __init__(self, lm: Any, dtype: torch.dtype) -> None:
        body = lm.base_model
        self.max_positions: int = lm.config.max_position_embeddings
        self._dtype = dtype
        self._embedding = lm.get_input_embeddings()
        # GPT-2 has learned position embeddings, the other families rotary ones
        self._position_embedding = getattr(body, "wpe", None)
        self._rotary = getattr(body, "rotary_emb", None)
        if self._rotary is None:
            self.layers = [gpt2_layer(block, dtype) for block in body.h]
            self._norm = Norm(body.ln_f)
        else:
            self.layers = [llama_layer(layer, dtype) for layer in body.layers]
            self._norm = Norm(body.norm)
        self._vocab_size: int = lm.get_output_embeddings().weight.shape[0]
        self._head = PrepackedLinear([lm.get_output_embeddings()], dtype)

    def refresh(self) -> None:
        """Read the model's current weights."""
        for layer in self.layers:
            layer.refresh()
        self._head.refresh()

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [m, V] of hidden states [m, d]."""
        return self._head(hidden)

    def read(self, contexts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, KVCache]:
        """Read n contexts; return the hidden states [n, d] after their last tokens and the cache."""
        return self.extend_cache(contexts, self._empty_cache(contexts, device))

    def restore(self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]) -> KVCache:
        """Return a cache of the left-padded contexts, up to the first column that is not cached for one of them."""
        cache = self._empty_cache(contexts, cached[0].state.positions.device)
        width = max(map(len, contexts))
        cache.used = width - max(len(c) - len(prefix.tokens) for c, prefix in zip(contexts, cached, strict=True))
        for row, (context, prefix) in enumerate(zip(contexts, cached, strict=True)):
            source: KVCache = prefix.state
            count = cache.used - (width - len(context))  # tokens of this row before that column
            if count > 0:
                target = slice(cache.used - count, cache.used)
                start = source.used - int(source.positions[prefix.row])
                cache.keys[:, row, ..., target] = source.keys[:, prefix.row, ..., start : start + count]
                cache.values[:, row, :, target] = source.values[:, prefix.row, :, start : start + count]
        return cache

    def extend_cache(self, contexts: Sequence[Sequence[int]], cache: KVCache) -> tuple[Tensor, KVCache]:
        """Read the contexts past the `used` slots of a cache that holds their beginnings; results as of `read`.

        On CUDA the rows are read in pieces of bounded size.
        """
        slots = max(map(len, contexts))
        self.check_length(slots)
        cache.reserve(slots)
        size = len(contexts)
        if cache.keys.device.type == "cuda":
            size = max(1, _PIECE_TOKENS // (slots - cache.used))
        starts = range(0, len(contexts), size)
        parts = [self._read_part(contexts[i : i + size], cache.part(i, i + size), slots) for i in starts]
        cache.used = slots
        cache.positions = torch.cat([positions for _, positions in parts])
        return torch.cat([hidden for hidden, _ in parts]), cache

    def _read_part(self, contexts: Sequence[Sequence[int]], cache: KVCache, slots: int) -> tuple[Tensor, Tensor]:
        """Read n contexts into the `slots` slots of a cache; return hidden states [n, d] and lengths int64 [n]."""
        device = cache.keys.device
        ids, real = (t.to(device) for t in left_padded(contexts, slots))
        start = cache.used
        positions = (real.cumsum(dim=1) - 1).clamp(min=0)
        visible = None
        # on CUDA attention without a mask has faster kernels; on a CPU the mask costs nothing
        if device.type != "cuda" or start > 0 or min(map(len, contexts)) < slots:
            # causal, without padding; padding sees only itself, because a softmax over no slot would be NaN
            column = torch.arange(slots, device=device)
            visible = ((column <= column[start:, None]) & real[:, None]) | (column == column[start:, None])
            visible = visible[:, None]
        hidden, rotation = self._embed(ids[:, start:], positions[:, start:])
        attention = BlockAttention(len(contexts), start, slots, visible)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            hidden = layer.step(hidden, rotation, keys, values, attention)
        last = hidden.view(len(contexts), slots - start, -1)[:, -1]
        return self._norm(last), positions[:, -1] + 1

    def advance(self, cache: KVCache, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        slot = cache.used
        self.check_length(slot + 1)
        cache.reserve(slot + 1)
        mask = None if cache.mask is None else self.mask_of_heads(cache.mask[:, : slot + 1])
        attention = StepAttention(slot, slot + 1, mask)
        hidden = self.step(tokens, cache.positions, cache.keys, cache.values, attention)
        cache.used = slot + 1
        cache.positions = cache.positions + 1
        return hidden

    def step(self, tokens: Tensor, positions: Tensor, keys: Tensor, values: Tensor, attention: StepAttention) -> Tensor:
        """Return hidden states [n, d] after one more token per row, at the given positions [n]."""
        hidden, rotation = self._embed(tokens[:, None], positions[:, None])
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            hidden = layer.step(hidden, rotation, k, v, attention)
        return self._norm(hidden)

    def mask_of_heads(self, mask: Tensor) -> Tensor:
        """Return the additive mask [n, slots] for each key head, as [n · key heads, 1, slots]."""
        return mask.repeat_interleave(self.layers[0].kv_heads, dim=0)[:, None]

    def check_length(self, length: int) -> None:
        """Raise UserError if a context is longer than the model's positions."""
        if length > self.max_positions:
            raise UserError(
                f"expected contexts of at most the model's {self.max_positions} positions, got {length} tokens; use "
                "shorter prompts or turns"
            )

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of the keys and values of one token."""
        layer = self.layers[0]
        return 2 * len(self.layers) * layer.kv_heads * layer.width * self._dtype.itemsize

    @property
    def vocab_size(self) -> int:
        """V, the number of logits of a row."""
        return self._vocab_size

    def allocate(self, rows: int, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return keys and values of a `KVCache` of so many rows and slots, all 0."""
        count, heads, width = len(self.layers), self.layers[0].kv_heads, self.layers[0].width
        keys = torch.zeros(count, rows, heads, width, slots, dtype=self._dtype, device=device)
        return keys, torch.zeros(count, rows, heads, slots, width, dtype=self._dtype, device=device)

    def _empty_cache(self, contexts: Sequence[Sequence[int]], device: torch.device) -> KVCache:
        """Return a cache with the slots and the mask of the left-padded contexts, and no token yet."""
        check_contexts(contexts)
        lengths = torch.tensor([len(c) for c in contexts], device=device)
        longest = max(map(len, contexts))
        keys, values = self.allocate(len(contexts), longest, device)
        mask = None
        if min(map(len, contexts)) < longest:
            mask = torch.zeros(len(contexts), longest, dtype=self._dtype, device=device)
            padding = torch.arange(longest, device=device) < (longest - lengths)[:, None]
            mask.masked_fill_(padding, -torch.inf)
        return KVCache(keys, values, mask, torch.zeros_like(lengths), 0)

    def _embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return embeddings [n·T, d] of the tokens [n, T], and cosine and signed sine [n·T, 1, width] of rotations."""
        hidden: Tensor = self._embedding(ids).float()
        if self._rotary is None:
            return (hidden + self._position_embedding(positions)).flatten(0, 1), None  # type: ignore[misc]  # GPT-2 has one
        # the result of the model's rotary module in fewer operations; exact for the kinds in _FIXED_ROTARY
        angles = positions.flatten()[:, None, None].float() * self._rotary.inv_freq.float()
        cos, sin = (t.mul_(self._rotary.attention_scaling) for t in (angles.cos(), angles.sin()))
        return hidden.flatten(0, 1), (torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))
