"""Forward passes of any transformers decoder, with explicit positions and masks.

There are three layouts:

- Packed: rows to be scored, in one row without padding, each shared prefix once (`packing.py`). Not all architectures
  allow it.
- Right-padded: rows to be scored by other architectures. Causality alone hides the padding, without a mask.
- Left-padded: contexts that decoding continues from a cache. They end at the same column; a mask hides the padding.

Padding changes a result by no more than rounding, and its gradient is exactly zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import check_contexts
from rlalign.policies.scoring.attention import ATTENTION_NAME, register
from rlalign.policies.scoring.fused_logprobs import fused_logprobs
from rlalign.policies.scoring.linear import Linear
from rlalign.policies.scoring.packing import pack, to_device
from rlalign.policies.scoring.token_scores import first_actions, plain_scorer
from rlalign.types import Sampling


class CacheState:
    """n contexts in a transformers cache.

    Attributes:
        cache: the transformers cache.
        mask: bool [n, slots], true at real tokens. None if all tokens are real: attention without a mask is faster.
        positions: int64 [n], the lengths.
        longest: the number of slots.
    """

    def __init__(self, cache: Any, mask: Tensor | None, positions: Tensor, longest: int) -> None:
        self.cache = cache
        self.mask = mask
        self.positions = positions
        self.longest = longest

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.cache.batch_select_indices(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        self.positions = self.positions[rows]

    def appended(self, width: int) -> Tensor | None:
        """Return the mask after `width` more real tokens per row."""
        if self.mask is None:
            return None
        return torch.cat([self.mask, self.mask.new_ones(len(self.mask), width)], dim=1)


def left_padded(contexts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the ids [G, P] of contexts that end at the same column, padded with 0, and the mask [G, P] of real ids."""
    longest = max(map(len, contexts))
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    mask = torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        ids[row, longest - len(context) :] = torch.as_tensor(context)
        mask[row, longest - len(context) :] = True
    return ids, mask


class Backbone:
    """A causal language model split into its body and its head.

    Args:
        lm: a transformers `...ForCausalLM`.

    Raises:
        UserError: the model has no separate head.
    """

    def __init__(self, lm: Any) -> None:
        self.body: nn.Module = lm.base_model
        self._head = lm.get_output_embeddings()
        if self._head is None or self.body is lm:
            raise UserError(
                f"expected a decoder with a language-model head, got '{type(lm).__name__}'; use a causal language model"
            )
        self._config = config = lm.config.get_text_config()
        self.vocab_size: int = self._head.weight.shape[0]
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        # architectures that change their logits after the head: a soft cap, a factor or a divisor
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale: float = getattr(config, "logit_scale", None) or 1.0
        if getattr(config, "logits_scaling", None):
            self._scale /= config.logits_scaling
        self._takes_positions = "position_ids" in inspect.signature(self.body.forward).parameters

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits [M, V] of hidden states [M, d]."""
        logits: Tensor = self._head(hidden)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def scorer(
        self, states: Tensor, targets: Tensor, sampling: Sampling, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute log-probs and entropies of targets [A] from the states [A, d] before them, as a `Scorer`."""
        if self._softcap or type(self._head) is not Linear:
            return plain_scorer(self.head, self.vocab_size)(states, targets, sampling, entropy)
        kind = states.device.type
        weight: Tensor = self._head.weight
        bias: Tensor | None = self._head.bias
        if torch.is_autocast_enabled(kind):
            # the cast stands outside of the fused function, so that autograd returns a gradient in the weight's dtype
            weight = weight.to(torch.get_autocast_dtype(kind))
            bias = None if bias is None else bias.to(weight.dtype)
        with torch.autocast(kind, enabled=False):
            return fused_logprobs(states, weight, bias, targets, self._scale, sampling, entropy)

    def verify(self, lm: Any) -> None:
        """Compare the logits of body and head with those of the complete model, on three tokens.

        Raises:
            UserError: they differ.
        """
        device = next(lm.parameters()).device
        ids = torch.arange(3, device=device)[None] % self.vocab_size
        with torch.no_grad():
            expected = lm(input_ids=ids, use_cache=False).logits[0].float()
            logits = self.head(self._run(ids, None, torch.arange(3, device=device)[None])[0][0]).float()
        if not torch.allclose(expected, logits, rtol=2e-2 if expected.dtype != torch.float32 else 1e-3, atol=1e-2):
            raise UserError(
                f"expected logits that the head alone computes, got another computation in '{type(lm).__name__}'; "
                "use another architecture"
            )

    @property
    def _device(self) -> torch.device:
        return next(self.body.parameters()).device

    def _run(
        self,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Any = None,
        *,
        keep_cache: bool = False,
        **arguments: Any,
    ) -> tuple[Tensor, Any]:
        """Return the body's hidden states and its cache."""
        if self._takes_positions:
            arguments["position_ids"] = positions
        use_cache = keep_cache or cache is not None
        out = self.body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=use_cache, **arguments)
        return out.last_hidden_state, getattr(out, "past_key_values", None)

    def read(self, contexts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, CacheState]:
        """Return the hidden states [G, d] after the last tokens of G contexts, and a cache to continue them from.

        Raises:
            UserError: a context is empty or too long, or the rows of the model's cache cannot be selected.
        """
        check_contexts(contexts)
        longest = max(map(len, contexts))
        self.check_length(longest)
        ids, mask = (t.to(device) for t in left_padded(contexts))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # 0 on padding, which the mask hides
        needed_mask = mask if min(map(len, contexts)) < longest else None
        hidden, cache = self._run(ids, needed_mask, positions, keep_cache=True)
        if not hasattr(cache, "batch_select_indices"):
            raise UserError(
                f"expected a cache whose rows can be selected, got '{type(cache).__name__}' from "
                f"'{type(self.body).__name__}'; use --rollout.sampler generate"
            )
        return hidden[:, -1], CacheState(cache, needed_mask, positions[:, -1] + 1, longest)

    def advance(self, state: CacheState, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        state.longest += 1
        self.check_length(state.longest)
        state.mask = state.appended(1)
        hidden, state.cache = self._run(
            tokens[:, None], state.mask, state.positions[:, None], state.cache, keep_cache=True
        )
        state.positions = state.positions + 1
        return hidden[:, -1]

    def check_length(self, length: int) -> None:
        """Raise UserError if a context is longer than the model's positions."""
        if self.max_positions is not None and length > self.max_positions:
            raise UserError(
                f"expected a context within the model's {self.max_positions} positions, got {length} tokens; "
                "use shorter prompts or turns"
            )

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
        self.check_length(int(ends.max()))
        rows, action_columns = action_mask.nonzero(as_tuple=True)
        read = self._packed if self.packs else self._padded
        with self._checkpointing():
            hidden, slots = read(tokens, first, ends)
        final = None
        if with_final:
            final = hidden[to_device(slots.gather(1, lengths[:, None] - 1).squeeze(1), hidden.device)]
        return hidden.index_select(0, to_device(slots[rows, action_columns - 1], hidden.device)), final

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Put layers with gradient checkpointing into training mode within the block.

        transformers checkpoints in training mode only, and then keeps no cache. The mode of the layer changes nothing
        else, because the modules inside it stay in eval mode.
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
        """Return hidden states [M, d] of the columns before `ends` [N], and the slot [N, L] of each column in them."""
        packing, slots = pack(tokens, first, ends)
        packing = packing.to(self._device)
        # transformers passes a mask of four dimensions on unchanged: it builds no mask, which packed attention ignores
        unused_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self._device)
        hidden, _ = self._run(packing.ids, unused_mask, packing.positions, packing=packing)
        return hidden[0], slots

    def _padded(self, tokens: Tensor, first: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `_packed` from right-padded rows: the reference, and the layout of other architectures."""
        width = int(ends.max())
        ids = to_device(tokens[:, :width].contiguous(), self._device)
        positions = torch.arange(width, device=self._device).expand_as(ids)
        hidden, _ = self._run(ids, None, positions)
        slots = torch.arange(tokens.shape[1]).clamp(max=width - 1) + width * torch.arange(len(tokens))[:, None]
        return hidden.flatten(0, 1), slots

    def try_packing(self, lm: Any) -> None:
        """Use the packed layout, also in copies of the model, if it returns the states of the padded layout.

        `lm.set_attn_implementation("sdpa")` switches back to the padded layout.
        """
        if lm.config.get_text_config()._attn_implementation != "sdpa":
            return
        # rows with a shared prefix, rows of different lengths and an equal token at different positions
        tokens = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 0, 0], [7, 1, 2, 3, 0, 0]]) % self.vocab_size
        first = torch.tensor([3, 3, 2])
        ends = torch.tensor([6, 4, 4])
        inside = torch.arange(tokens.shape[1]) < ends[:, None]

        def states(read: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
            hidden, slots = read(tokens, first, ends)
            return hidden[slots[inside].to(hidden.device)]

        register()
        with torch.no_grad():
            padded = states(self._padded)
            try:
                lm.set_attn_implementation(ATTENTION_NAME)
                packed = states(self._packed)
                exact = packed.dtype == torch.float32 and not torch.is_autocast_enabled(packed.device.type)
                tolerance = 1e-4 if exact else 5e-2
                same = self.packs and bool((padded - packed).abs().max() <= tolerance * padded.abs().max())
            except (NotImplementedError, TypeError, ValueError, KeyError, IndexError, RuntimeError):
                same = False  # the errors of layers that get an unknown argument
        if not same:
            lm.set_attn_implementation("sdpa")

    @property
    def packs(self) -> bool:
        """True if rows are read in the packed layout; see packing.py."""
        return bool(self._config._attn_implementation == ATTENTION_NAME)
