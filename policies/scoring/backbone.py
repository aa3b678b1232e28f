"""Reading tokens with any transformers decoder: positions and masks always explicit, each shared prompt read once.

Three layouts. Rows to be scored are packed into one without pads, each shared beginning once (packing.py), where the
architecture allows it. Where it does not they are right-padded, and causality alone keeps the pads out of sight.
Contexts that will be continued from a cache are left-padded, so that they end together; there the pads are masked. Pads
never move a result beyond rounding, and their gradient is exactly zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.scoring.fused_logprobs import fused_logprobs
from rlalign.policies.scoring.linear import Linear
from rlalign.policies.scoring.packing import NAME, pack, register, to_device
from rlalign.policies.scoring.token_scores import first_actions, plain_scorer
from rlalign.types import Sampling


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
        self._config = config = lm.config.get_text_config()
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

    def scorer(
        self, states: Tensor, targets: Tensor, sampling: Sampling, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies of targets [A] from the states [A, d] before them; see `scoring.Scorer`."""
        if self._softcap or type(self._head) is not Linear:
            return plain_scorer(self.head, self.vocab_size)(states, targets, sampling, entropy)
        kind = states.device.type
        weight: Tensor = self._head.weight
        bias: Tensor | None = self._head.bias
        if torch.is_autocast_enabled(kind):
            weight = weight.to(torch.get_autocast_dtype(kind))
            bias = None if bias is None else bias.to(weight.dtype)
        with torch.autocast(kind, enabled=False):
            return fused_logprobs(states, weight, bias, targets, self._scale, sampling, entropy)

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

    @property
    def _device(self) -> torch.device:
        return next(self.body.parameters()).device

    def _run(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any = None, *, keep: bool = False, **more: Any
    ) -> tuple[Tensor, Any]:
        places = {"position_ids": positions} if self._takes_positions else {}
        use = keep or cache is not None
        out = self.body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=use, **places, **more)
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

    def states(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, *, whole: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states [A, d] before each action, in the order of `action_mask.nonzero()`, and, when `whole`, [N, d]
        after the last token of each row. The tensors given are on the CPU."""
        first = first_actions(action_mask, lengths)
        columns = torch.arange(tokens.shape[1])
        ends = lengths if whole else torch.where(action_mask, columns, first[:, None]).amax(dim=1)  # columns to be read
        self.check_length(int(ends.max()))
        rows, at = action_mask.nonzero(as_tuple=True)
        read = self._packed if self.packs else self._padded
        with self._checkpointing():
            hidden, slots = read(tokens, first, ends)
        last = hidden[to_device(slots.gather(1, lengths[:, None] - 1).squeeze(1), hidden.device)] if whole else None
        return hidden.index_select(0, to_device(slots[rows, at - 1], hidden.device)), last

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Layers that were told to checkpoint do it in training mode only, and there they keep no cache: so, just here.

        The mode of a layer itself changes nothing else; what is inside it stays in eval mode.
        """
        layers = [m for m in self.body.modules() if getattr(m, "gradient_checkpointing", False)]
        for layer in layers if torch.is_grad_enabled() else ():
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def _packed(self, tokens: Tensor, first: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [M, d] of the columns before `ends` [N], and the slot [N, L] of each column among them."""
        packing, slots = pack(tokens, first, ends)
        packing = packing.to(self._device)
        # a mask of four dimensions is handed on as it is: nothing is built that packed attention would not look at
        unused = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self._device)
        hidden, _ = self._run(packing.ids, unused, packing.positions, packing=packing)
        return hidden[0], slots

    def _padded(self, tokens: Tensor, first: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """The same by whole rows, padded on the right: the reference, and what other architectures take."""
        width = int(ends.max())
        ids = to_device(tokens[:, :width].contiguous(), self._device)
        positions = torch.arange(width, device=self._device).expand_as(ids)
        hidden, _ = self._run(ids, None, positions)
        slots = torch.arange(tokens.shape[1]).clamp(max=width - 1) + width * torch.arange(len(tokens))[:, None]
        return hidden.flatten(0, 1), slots

    def try_packing(self, lm: Any) -> None:
        """Take the packed layout from now on, as will copies of the model, if it gives the states of the padded one.

        `lm.set_attn_implementation("sdpa")` goes back to the padded layout.
        """
        if lm.config.get_text_config()._attn_implementation != "sdpa":
            return
        tokens = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 0, 0], [7, 1, 2, 3, 0, 0]]) % self.vocab_size
        first, ends = torch.tensor([3, 3, 2]), torch.tensor([6, 4, 4])
        inside = torch.arange(tokens.shape[1]) < ends[:, None]

        def states(read: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
            hidden, slots = read(tokens, first, ends)
            return hidden[slots[inside].to(hidden.device)]

        register()
        with torch.no_grad():
            want = states(self._padded)
            try:
                lm.set_attn_implementation(NAME)
                got = states(self._packed)
                close = 1e-4 if got.dtype == torch.float32 and not torch.is_autocast_enabled(got.device.type) else 5e-2
                same = self.packs and bool((want - got).abs().max() <= close * want.abs().max())
            except (NotImplementedError, TypeError, ValueError, KeyError, IndexError, RuntimeError):
                same = False  # what a layer says that is handed something unknown
        if not same:
            lm.set_attn_implementation("sdpa")

    @property
    def packs(self) -> bool:
        """Rows are read without pads, a shared beginning once; see packing.py."""
        return bool(self._config._attn_implementation == NAME)
