"""Decoder-only transformers of the known families (Llama, Qwen2, Qwen3, GPT-2), written for decoding.

A step of n rows reads every weight once for little arithmetic, so its cost is the rate of its products and the number
of its operations. Queries, keys and values are one product, gate and up another; keys and values are written in place.
Weights are those of the live modules as of the last `refresh`; norms and embeddings are read where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import CachedPrefix
from rlalign.policies.sampling.fast_layer import Block, Column, Norm, gpt2_layer, llama_layer
from rlalign.policies.sampling.prepacked_linear import Product, is_known
from rlalign.policies.scoring.backbone import left_padded

_FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel")
_OURS = ("rlalign.policies.scoring.linear", "rlalign.policies.scoring.norm", "rlalign.policies.scoring.attention")
_MODULES = ("transformers.", "torch.nn.", "peft.tuners.lora.", *_OURS)
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
_ROOM = 32
"""Slots that a full cache grows by, or a quarter of what it holds."""


def is_lean(lm: Any) -> bool:
    """True for the models that `LeanModel` computes exactly: the known families with nothing changed about them."""
    config = lm.config
    if type(lm).__name__ not in _FAMILIES or not all(type(m).__module__.startswith(_MODULES) for m in lm.modules()):
        return False
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    adapted = [m for m in lm.modules() if hasattr(m, "base_layer")]
    inside = {id(part) for m in adapted for part in m.modules()} - {id(m) for m in adapted}
    products = [m for m in lm.modules() if id(m) not in inside and (isinstance(m, nn.Linear) or m in adapted)]
    return (
        set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and rotary in _FIXED_ROTARY
        and not getattr(config, "add_cross_attention", False)
        and all(map(is_known, products))
    )


class LeanState:
    """n contexts that end together, with room for tokens to come.

    Attributes:
        keys: [layers, n, heads, width, slots]; values: [layers, n, heads, slots, width].
        hidden: [n, slots], -inf before a context's start and 0 elsewhere; None where all start at slot 0.
        positions: int64 [n], the lengths.
        longest: slots in use.
    """

    def __init__(self, keys: Tensor, values: Tensor, hidden: Tensor | None, positions: Tensor, longest: int) -> None:
        self.keys, self.values, self.hidden, self.positions, self.longest = keys, values, hidden, positions, longest

    def take(self, rows: Tensor) -> LeanState:
        """A copy of the given rows, in order."""
        hidden = None if self.hidden is None else self.hidden[rows]
        keys, values = (t.index_select(1, rows) for t in (self.keys, self.values))
        return LeanState(keys, values, hidden, self.positions[rows], self.longest)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.__dict__.update(vars(self.take(rows)))

    def make_room(self, slots: int) -> None:
        """Let there be at least so many slots."""
        have = self.values.shape[3]
        if slots > have:
            more = (0, slots + max(_ROOM, slots // 4) - have)
            self.keys, self.values = nn.functional.pad(self.keys, more), nn.functional.pad(self.values, (0, 0, *more))
            self.hidden = None if self.hidden is None else nn.functional.pad(self.hidden, more)


class LeanModel:
    """A model that `is_lean`, for decoding.

    Args:
        lm: the live transformers model.
        dtype: what to multiply in; between the layers numbers are float32, which halves what bfloat16 rounds away.
    """

    def __init__(self, lm: Any, dtype: torch.dtype) -> None:
        body = lm.base_model
        self.max_positions: int = lm.config.max_position_embeddings
        self._dtype, self._embed = dtype, lm.get_input_embeddings()
        self._places, self._rotary = getattr(body, "wpe", None), getattr(body, "rotary_emb", None)
        if self._rotary is None:
            self.layers, self._norm = [gpt2_layer(block, dtype) for block in body.h], Norm(body.ln_f)
        else:
            self.layers, self._norm = [llama_layer(layer, dtype) for layer in body.layers], Norm(body.norm)
        self._head = Product([lm.get_output_embeddings()], dtype)

    def refresh(self) -> None:
        """Take over the live weights as they are now."""
        for layer in self.layers:
            layer.refresh()
        self._head.refresh()

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [m, V] of hidden states [m, d]."""
        return self._head(hidden)

    def read(self, contexts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, LeanState]:
        """Read n contexts; return the hidden states [n, d] after their last tokens and a state that continues them."""
        return self.extend_cache(contexts, self._empty(contexts, device))

    def recall(self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]) -> LeanState:
        """A state of the left-padded contexts up to the first column that was not kept of one of them."""
        state = self._empty(contexts, cached[0].state.positions.device)
        width = max(map(len, contexts))
        state.longest = width - max(len(c) - len(k.tokens) for c, k in zip(contexts, cached, strict=True))
        for row, (context, old) in enumerate(zip(contexts, cached, strict=True)):
            source: LeanState = old.state
            count = state.longest - (width - len(context))
            if count > 0:
                to = slice(state.longest - count, state.longest)
                began = source.longest - int(source.positions[old.row])
                state.keys[:, row, ..., to] = source.keys[:, old.row, ..., began : began + count]
                state.values[:, row, :, to] = source.values[:, old.row, :, began : began + count]
        return state

    def extend_cache(self, contexts: Sequence[Sequence[int]], state: LeanState) -> tuple[Tensor, LeanState]:
        """Read what lies beyond the `longest` slots of a state that holds the contexts' beginnings; see `read`."""
        ids, real = (t.to(state.positions.device) for t in left_padded(contexts))
        slots = ids.shape[1]
        self.check_length(slots)
        state.make_room(slots)
        at = state.longest
        positions = (real.cumsum(dim=1) - 1).clamp(min=0)
        # nobody sees a pad but itself: a softmax over nothing would be NaN
        column = torch.arange(slots, device=ids.device)
        seen = ((column <= column[at:, None]) & real[:, None]) | (column == column[at:, None])
        h, turn = self._embedded(ids[:, at:], positions[:, at:])
        block = Block(at, seen[:, None])
        for layer, keys, values in zip(self.layers, state.keys, state.values, strict=True):
            h = layer.step(h, turn, keys, values, block)
        state.longest, state.positions = slots, positions[:, -1] + 1
        return self._norm(h.view(len(contexts), slots - at, -1)[:, -1]), state

    def advance(self, state: LeanState, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        at = state.longest
        self.check_length(at + 1)
        state.make_room(at + 1)
        hidden = None if state.hidden is None else self.of_heads(state.hidden[:, : at + 1])
        h = self.step(tokens, state.positions, state.keys, state.values, Column(at, at + 1, hidden))
        state.longest, state.positions = at + 1, state.positions + 1
        return h

    def step(self, tokens: Tensor, positions: Tensor, keys: Tensor, values: Tensor, column: Column) -> Tensor:
        """Hidden states [n, d] after one more token a row, at the given positions [n]."""
        h, turn = self._embedded(tokens[:, None], positions[:, None])
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            h = layer.step(h, turn, k, v, column)
        return self._norm(h)

    def of_heads(self, hidden: Tensor) -> Tensor:
        """What is added to the scores [n · heads of keys, 1, slots] of a `Column` to hide slots [n, slots]."""
        return hidden.repeat_interleave(self.layers[0].kv_heads, dim=0)[:, None]

    def check_length(self, length: int) -> None:
        """Raise UserError when a context is longer than the model's positions."""
        if length > self.max_positions:
            raise UserError(
                f"a context of {length} tokens is longer than the model's {self.max_positions} positions: shorten it"
            )

    def room(self, rows: int, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values for so many rows and slots, all 0."""
        count, heads, width = len(self.layers), self.layers[0].kv_heads, self.layers[0].width
        keys = torch.zeros(count, rows, heads, width, slots, dtype=self._dtype, device=device)
        return keys, torch.zeros(count, rows, heads, slots, width, dtype=self._dtype, device=device)

    def _empty(self, contexts: Sequence[Sequence[int]], device: torch.device) -> LeanState:
        if not all(contexts):
            raise UserError(
                "a context is empty, and a language model has nothing to predict a token from: start it with BOS"
            )
        lengths = torch.tensor([len(c) for c in contexts], device=device)
        longest = max(map(len, contexts))
        keys, values = self.room(len(contexts), longest, device)
        hidden = None
        if min(map(len, contexts)) < longest:
            hidden = torch.zeros(len(contexts), longest, dtype=self._dtype, device=device)
            before = torch.arange(longest, device=device) < (longest - lengths)[:, None]
            hidden.masked_fill_(before, -torch.inf)
        return LeanState(keys, values, hidden, torch.zeros_like(lengths), 0)

    def _embedded(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The tokens [n, T] as vectors [n·T, d], and cosine and signed sine [n·T, 1, width] of where they stand."""
        h: Tensor = self._embed(ids).float()
        if self._rotary is None:
            return (h + self._places(positions)).flatten(0, 1), None  # type: ignore[misc]  # no rotation, so there are places
        # what the rotary module computes, in fewer operations; see `_FIXED_ROTARY`
        angles = positions.flatten()[:, None, None].float() * self._rotary.inv_freq.float()
        cos, sin = (t.mul_(self._rotary.attention_scaling) for t in (angles.cos(), angles.sin()))
        return h.flatten(0, 1), (torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))
