"""Reading tokens with any transformers decoder: positions and masks always explicit, each shared prompt read once.

Two layouts. Rows read from column 0 are right-padded, and causality alone keeps the pads out of sight. Contexts that
will be continued from a cache are left-padded, so that they end together; there the pads are masked. Pads never move a
result beyond rounding, and their gradient is exactly zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.scoring import first_actions


class CacheState:
    """n contexts in a transformers cache.

    `mask` [n, slots] is true at real tokens, None when all are: attention is faster without one. `positions` [n] are
    the lengths, `longest` the number of slots.
    """

    def __init__(self, cache: Any, mask: Tensor | None, positions: Tensor, longest: int) -> None:
        self.cache, self.mask, self.positions, self.longest = cache, mask, positions, longest

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.cache.batch_select_indices(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        self.positions = self.positions[rows]

    def appended(self, width: int) -> Tensor | None:
        """The mask after `width` more real tokens in each row."""
        if self.mask is None:
            return None
        return torch.cat([self.mask, self.mask.new_ones(len(self.mask), width)], dim=1)


def left_padded(contexts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids [G, P] of contexts that end together, 0 before their starts, and the mask [G, P] of the real ones."""
    longest = max(map(len, contexts))
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    mask = torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        ids[row, longest - len(context) :] = torch.as_tensor(context)
        mask[row, longest - len(context) :] = True
    return ids, mask


class Backbone:
    """A causal LM without its head, and the head by itself.

    Args:
        lm: a transformers `...ForCausalLM`. Raises UserError where head and body cannot be told apart.
    """

    def __init__(self, lm: Any) -> None:
        self.body: nn.Module = lm.base_model
        self._head = lm.get_output_embeddings()
        if self._head is None or self.body is lm:
            raise UserError(
                f"'{type(lm).__name__}' is not a decoder with a language-model head: give a causal language model"
            )
        config = lm.config.get_text_config()
        self.vocab_size: int = self._head.weight.shape[0]
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale: float = getattr(config, "logit_scale", None) or 1.0
        if getattr(config, "logits_scaling", None):
            self._scale /= config.logits_scaling
        self._takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of hidden states [M, d]."""
        logits: Tensor = self._head(hidden)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def verify(self, lm: Any) -> None:
        """Check on three tokens that body and head make the logits of the whole model. Raises UserError otherwise."""
        device = next(lm.parameters()).device
        ids = torch.arange(3, device=device)[None] % self.vocab_size
        with torch.no_grad():
            whole = lm(input_ids=ids, use_cache=False).logits[0].float()
            ours = self.head(self._run(ids, None, torch.arange(3, device=device)[None])[0][0]).float()
        if not torch.allclose(whole, ours, rtol=2e-2 if whole.dtype != torch.float32 else 1e-3, atol=1e-2):
            raise UserError(
                f"'{type(lm).__name__}' does more to its logits than a head: this architecture is not supported"
            )

    def _run(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any = None, *, keep: bool = False
    ) -> tuple[Tensor, Any]:
        places = {"position_ids": positions} if self._takes_positions else {}
        out = self.body(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=keep or cache is not None, **places
        )
        return out.last_hidden_state, getattr(out, "past_key_values", None)

    def read(self, contexts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, CacheState]:
        """Read G contexts; return the hidden states [G, d] after their last tokens and a cache that continues them."""
        longest = max(map(len, contexts))
        if not all(contexts):
            raise UserError(
                "a context is empty, and a language model has nothing to predict a token from: start it with BOS"
            )
        self.check_length(longest)
        ids, mask = (t.to(device) for t in left_padded(contexts))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        seen = mask if min(map(len, contexts)) < longest else None
        hidden, cache = self._run(ids, seen, positions, keep=True)
        if not hasattr(cache, "batch_select_indices"):
            raise UserError(
                f"'{type(self.body).__name__}' keeps a cache that cannot be regrouped: use --rollout.sampler generate"
            )
        return hidden[:, -1], CacheState(cache, seen, positions[:, -1] + 1, longest)

    def advance(self, state: CacheState, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        state.longest += 1
        self.check_length(state.longest)
        state.mask = state.appended(1)
        hidden, state.cache = self._run(tokens[:, None], state.mask, state.positions[:, None], state.cache, keep=True)
        state.positions = state.positions + 1
        return hidden[:, -1]

    def check_length(self, length: int) -> None:
        """Raise UserError when a context is longer than the model's positions."""
        if self.max_positions is not None and length > self.max_positions:
            raise UserError(
                f"a context of {length} tokens is longer than the model's {self.max_positions} positions: shorten it"
            )

    def hidden_states(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, *, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [N, S, d] and start [N]: hidden[i, j] is the state after column start[i] + j of row i.

        They cover every position that predicts an action and, when `whole`, the last token of the row. Where rows share
        what comes before their last prompt token (samples of one group), that is read once, with gradient.
        """
        first = first_actions(action_mask, lengths)
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        ends = lengths if whole else torch.where(action_mask, columns, first[:, None]).amax(dim=1)  # columns to be read
        start = first - 1
        prefixes = [row[:n] for row, n in zip(tokens.tolist(), start.tolist(), strict=True)]
        unique: dict[tuple[int, ...], int] = {}
        owner = [unique.setdefault(tuple(p), len(unique)) for p in prefixes]
        shared = len(unique) < len(prefixes) and min(map(len, prefixes)) > 0
        if not shared:
            start = torch.zeros_like(start)
        reach = ends - start
        offsets = torch.arange(int(reach.max()), device=tokens.device)[None]
        positions = torch.minimum(start[:, None] + offsets, ends[:, None] - 1)
        self.check_length(int(ends.max()))
        ids = tokens.gather(1, positions)
        if not shared:
            hidden, _ = self._run(ids, None, offsets.expand_as(ids))
            return hidden, start
        _, state = self.read(list(unique), tokens.device)
        state.select(torch.tensor(owner, device=tokens.device))
        hidden, _ = self._run(ids, state.appended(ids.shape[1]), positions, state.cache)
        return hidden, start
