"""Forward passes of any transformers decoder for scoring, in the layout that `Paths.scoring` names.

- packed: rows in one row without padding, each shared prefix once (`packing.py`), with explicit positions. Not all
  architectures allow it.
- padded: right-padded rows. Causality alone hides the padding, without a mask.
- equal: rows of equal length together, for architectures that read the padding all the same.
- alone: row by row.

Padding changes a result by no more than rounding, and its gradient is exactly zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.virtual_tokens import VirtualTokens
from rlalign.policies.scoring.attention import ATTENTION_NAME
from rlalign.policies.scoring.head import Head
from rlalign.policies.scoring.packing import behind_cache, pack, to_device
from rlalign.policies.scoring.paths import Paths, Scoring
from rlalign.policies.scoring.positions import switch_length
from rlalign.policies.scoring.token_scores import first_actions

_CACHES = ("past_key_values", "cache_params", "state")
"""Names that bodies of transformers use for their cache, as an argument and in the output."""


class Backbone:
    """A causal language model split into its body and its head.

    Args:
        lm: a transformers `...ForCausalLM`.
        paths: how rows are read; see `Paths`. The attention of `lm` decides whether the packed layout can be used.
        virtual: tokens that each context is read behind; None: there are none.

    Raises:
        UserError: the model has no separate head.
    """

    def __init__(self, lm: Any, paths: Paths | None = None, virtual: VirtualTokens | None = None) -> None:
        self.body = body_of(lm)
        self.virtual = virtual
        if lm.get_output_embeddings() is None or self.body is lm:
            raise UserError(
                f"expected a decoder with a language-model head, got '{type(lm).__name__}'; use a causal language model"
            )
        self.paths = paths or Paths()
        self.head = Head(lm, self.body, self.paths.head)
        self.vocab_size = self.head.vocab_size
        self._config = config = lm.config.get_text_config()
        limit = _max_positions(config)
        self.max_positions = limit if limit is None or virtual is None else limit - virtual.count
        self.switch = switch_length(config)
        parameters = _parameters(self.body)
        self.takes_positions = "position_ids" in parameters
        self._cache_name = next((name for name in _CACHES if name in parameters), None)
        self._makes_cache = True
        self._takes_use_cache = "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    @property
    def packs(self) -> bool:
        """True if rows are read in the packed layout; see packing.py."""
        return self.paths.scoring == "packed" and bool(self._config._attn_implementation == ATTENTION_NAME)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Lengths, ascending, beyond which a context is read together with contexts of equal length only."""
        return tuple(sorted({length for length in (self.switch, self.paths.proven) if length is not None}))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.body.parameters()).device

    @property
    def has_cache(self) -> bool:
        """True if the body can continue from a cache."""
        return self._cache_name is not None

    def run(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Any = None,
        *,
        keep_cache: bool = False,
        **arguments: Any,
    ) -> tuple[Tensor, Any]:
        """Run the body.

        Virtual tokens need no place in the arguments: a new cache begins with them, and positions are behind them.

        Args:
            ids: int64 [n, T], token ids.
            mask: bool [n, slots], true at real tokens, or None.
            positions: int64 [n, T], or None for the positions that the body computes.
            cache: of an earlier run, or None.
            keep_cache: return a cache.
            arguments: further arguments of the body.

        Returns:
            The hidden states [n, T, d], and the cache or None.
        """
        if self.virtual is not None:
            if mask is not None and mask.ndim == 2:
                mask = torch.cat([mask.new_ones(len(ids), self.virtual.count), mask], dim=1)
            positions = None if positions is None else positions + self.virtual.count
            cache = self.virtual.cache(len(ids)) if cache is None else cache
        if positions is not None and self.takes_positions:
            arguments["position_ids"] = positions
        if self._takes_use_cache:
            arguments["use_cache"] = keep_cache or cache is not None
        if self._cache_name is not None:
            arguments[self._cache_name] = cache
        if mask is not None:
            arguments["attention_mask"] = mask
        if keep_cache and cache is None and not self._makes_cache:
            arguments[self._cache_name or _CACHES[0]] = cache = DynamicCache(config=self._config)
        out = self.body(input_ids=ids, **arguments)
        new_cache = getattr(out, self._cache_name or "", None)
        if keep_cache and new_cache is None:
            if cache is None and self._cache_name is not None:
                # a body that fills a cache of its caller and returns none
                self._makes_cache = False
                return self.run(ids, mask, positions, keep_cache=True, **arguments)
            new_cache = cache
        return out.last_hidden_state, new_cache

    @torch.no_grad()
    def width(self) -> int:
        """Return the width d of the hidden states, which for some models is not that of the embeddings."""
        hidden, _ = self.run(torch.zeros(1, 1, dtype=torch.int64, device=self.device))
        return hidden.shape[-1]

    def check_length(self, length: int) -> None:
        """Raise UserError if a context is longer than the model's positions."""
        if self.max_positions is not None and length > self.max_positions:
            raise UserError(
                f"expected a context within the model's {self.max_positions} positions, got {length} tokens; "
                "use shorter prompts or turns"
            )

    # ---- scoring ----

    def states(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, *, with_final: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the hidden states that scores are computed from.

        Args:
            tokens: int64 [N, L] on the CPU.
            lengths: int64 [N] on the CPU.
            action_mask: bool [N, L] on the CPU, false at column 0 (`Policy.score` checks it).
            with_final: whether to return the states after the last tokens.

        Returns:
            The states [A, d] before each action, in the order of `action_mask.nonzero()`. If `with_final`, also [N, d]
            after the last token of each row.
        """
        first = first_actions(action_mask, lengths)
        columns = torch.arange(tokens.shape[1])
        # the last action predicts nothing: without final states its column need not be read
        ends = lengths if with_final else torch.where(action_mask, columns, first[:, None]).amax(dim=1)
        rows, action_columns = action_mask.nonzero(as_tuple=True)
        with self._checkpointing():
            hidden, slots = self._read(tokens, first, ends)
        final = None
        if with_final:
            final = hidden[to_device(slots.gather(1, lengths[:, None] - 1).squeeze(1), hidden.device)]
        return hidden.index_select(0, to_device(slots[rows, action_columns - 1], hidden.device)), final

    def final_states(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """Return the hidden states [n, d] after the last tokens of n contexts, read in full."""
        lengths = torch.tensor([len(context) for context in contexts])
        tokens = torch.zeros(len(contexts), int(lengths.max()), dtype=torch.int64)
        for row, context in enumerate(contexts):
            tokens[row, : len(context)] = torch.as_tensor(context)
        hidden, slots = self._read(tokens, lengths, lengths)
        return hidden[to_device(slots.gather(1, lengths[:, None] - 1).squeeze(1), hidden.device)]

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Put layers with gradient checkpointing into training mode within the block.

        transformers checkpoints in training mode only, and then keeps no cache. The mode of the layer changes nothing
        else, because the modules inside it stay in eval mode, and its rates of dropout are 0.
        """
        layers = [m for m in self.body.modules() if getattr(m, "gradient_checkpointing", False)]
        for layer in layers if torch.is_grad_enabled() else ():
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def _read(self, tokens: Tensor, first: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [M, d] of the columns before `ends` [N], and the slot [N, L] of each column in them."""
        self.check_length(int(ends.max()))
        boundaries = self.boundaries
        if not boundaries or int(ends.max()) <= boundaries[0]:
            return self._read_layout(tokens, first, ends, self._layout)
        # (rows, their ends, the columns from which on their states are taken): a later part replaces an earlier one
        long = ends > boundaries[0]
        parts = [((~long).nonzero().squeeze(1), ends, 0, self._layout), (long.nonzero().squeeze(1), ends, 0, "equal")]
        if self.switch is not None:
            beyond = (ends > self.switch).nonzero().squeeze(1)
            parts[1] = (long.nonzero().squeeze(1), ends.clamp(max=self.switch), 0, "equal")
            parts.append((beyond, ends, self.switch, "equal"))
        all_hidden: list[Tensor] = []
        all_slots = torch.zeros_like(tokens)
        count = 0
        for rows, part_ends, start, layout in parts:
            if len(rows):
                hidden, slots = self._read_layout(tokens[rows], first[rows], part_ends[rows], layout)
                all_slots[rows, start:] = slots[:, start:] + count
                all_hidden.append(hidden)
                count += len(hidden)
        return torch.cat(all_hidden), all_slots

    @property
    def _layout(self) -> Scoring:
        """The layout to use now: packing ends when another attention is set on the model."""
        return "padded" if self.paths.scoring == "packed" and not self.packs else self.paths.scoring

    def _read_layout(self, tokens: Tensor, first: Tensor, ends: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        if layout == "packed":
            return self._packed(tokens, first, ends)
        if layout == "padded":
            return self._padded(tokens, ends)
        if layout == "equal":
            return self._rows(tokens, ends, [(ends == end).nonzero().squeeze(1) for end in sorted(set(ends.tolist()))])
        return self._rows(tokens, ends, [torch.tensor([row]) for row in range(len(tokens))])

    def _packed(self, tokens: Tensor, first: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        packing, slots = pack(tokens, first, ends)
        if self.virtual is not None:
            packing = behind_cache(packing, self.virtual.count)
        packing = packing.to(self.device)
        # transformers passes a mask of four dimensions on unchanged: it builds no mask, which packed attention ignores
        unused_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device)
        hidden, _ = self.run(packing.ids, unused_mask, packing.positions, packing=packing)
        return hidden[0], slots

    def _padded(self, tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        width = int(ends.max())
        # a token of the row in place of its padding, whose id the model need not have
        inside = torch.arange(width) < ends[:, None]
        ids = torch.where(inside, tokens[:, :width], tokens[:, :1])
        hidden, _ = self.run(to_device(ids, self.device))
        slots = torch.arange(tokens.shape[1]).clamp(max=width - 1) + width * torch.arange(len(tokens))[:, None]
        return hidden.flatten(0, 1), slots

    def _rows(self, tokens: Tensor, ends: Tensor, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Read each group of row indices, of equal ends, in a forward pass of its own."""
        hidden: list[Tensor] = []
        slots = torch.zeros_like(tokens)
        count = 0
        for rows in groups:
            end = int(ends[rows[0]])
            states, _ = self.run(to_device(tokens[rows, :end].contiguous(), self.device))
            hidden.append(states.flatten(0, 1))
            slots[rows, :end] = count + torch.arange(len(rows) * end).view(len(rows), end)
            count += len(rows) * end
        return torch.cat(hidden), slots


def body_of(lm: Any) -> nn.Module:
    """Return the body of a model: its `base_model`, or its attribute `model` where transformers does not find that."""
    body: nn.Module = lm.base_model
    return getattr(lm, "model", body) if body is lm else body


def _parameters(body: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a body's forward pass; of the decoder inside if the body passes all arguments on."""
    parameters = inspect.signature(body.forward).parameters
    decoder = getattr(body, "decoder", None)
    return parameters if "input_ids" in parameters or decoder is None else _parameters(decoder)


def _max_positions(config: Any) -> int | None:
    """Return the number of positions of a model; None if it has no limit."""
    try:
        limit = getattr(config, "max_position_embeddings", None)
    except NotImplementedError:  # XLNet raises for this attribute
        return None
    return limit if isinstance(limit, int) and limit > 0 else None
