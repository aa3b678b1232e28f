"""The decode loop: draw token by token with a KV cache, one prompt per group, finished rows removed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rlalign.policies.base import DecodeState, Policy
from rlalign.policies.device import on_device
from rlalign.policies.memory import empty_cache, free_bytes, is_out_of_memory, register, release_buffers
from rlalign.policies.sampling.cuda_graphs import CHECK_EVERY, FixedBufferLoop, buffer_rows, buffer_slots
from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.policies.sampling.fast_decoder import FastDecoder, KVCache
from rlalign.policies.sampling.protocol import SupportsCachedDecoding
from rlalign.policies.sampling.sampler import CachedPrefix, Samples, no_tokens, token_limits
from rlalign.policies.sampling.turn import Turn, join
from rlalign.types import Sampling

_ACTIVE_SHARE = 0.75
"""Finished rows are removed from the batch when the share of active rows falls to this."""
_LOOPS = 4
"""Number of kinds of rollout (training, evaluation, ...) whose buffers and graphs are kept."""
_USABLE_SHARE = 0.8
"""Share of the free memory that a pass is planned for; the rest is for what the plan does not count."""


class DecodeSampler:
    """Draws token by token. Each prompt is read once per group, and log-probs are a result of the drawing.

    Equal weights, contexts and generator state give bitwise equal samples on a CPU. Each row has uniform numbers of its
    own, so that other rows affect its tokens by rounding only.

    Args:
        policy: the policy to draw from.
        fixed: decode in buffers of fixed size, by captured graphs on CUDA, if the policy has an optimized decoder;
            None: on CUDA only.
    """

    def __init__(self, policy: Policy, *, fixed: bool | None = None) -> None:
        self.policy = policy
        self._fixed = policy.device.type == "cuda" if fixed is None else fixed
        self._loops: dict[tuple[Any, ...], tuple[DecodeBatch, FixedBufferLoop]] = {}
        self._graph_pool = torch.cuda.graph_pool_handle() if policy.device.type == "cuda" else None
        self._max_slots: int | None = None  # rows · slots of a pass, after memory ran out
        register(self)

    @torch.no_grad()
    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_new: int | Sequence[int],
        stop_ids: frozenset[int],
        sampling: Sampling,
        generator: torch.Generator,
        greedy: bool = False,
        cached: Sequence[CachedPrefix | None] | None = None,
    ) -> Samples:
        """Continue each context; see `Sampler.sample`.

        Rows that do not fit into the memory of the device together are sampled in several passes, which changes the
        samples by rounding only. Nothing is cached then.
        """
        limits = token_limits(contexts, max_new)
        width = max(limits)
        if width == 0:
            return no_tokens(len(contexts))
        with on_device(self.policy.device):
            uniforms = None
            if not greedy:
                # for the rows in use and for all of them at once: neither buffers nor passes change the samples
                uniforms = torch.rand(
                    width, len(contexts), dtype=torch.float64, device=self.policy.device, generator=generator
                )
            return self._sample(Turn(contexts, limits, uniforms, stop_ids, sampling, cached))

    def _sample(self, turn: Turn) -> Samples:
        """Sample the rows of a turn, in as few passes as memory allows."""
        parts: list[Samples] = []
        caches = turn.cached is not None
        start = 0
        size = self._rows_that_fit(turn)
        while start < len(turn):
            part = turn.rows(start, min(start + size, len(turn)))
            try:
                parts.append(self._pass(part))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
            # here, because inside `except` the traceback still holds the tensors
            release_buffers()
            empty_cache()
            size = (len(part) + 1) // 2
            self._max_slots = size * buffer_slots(turn.width, turn.longest)[1]
            turn = replace(turn, cached=None)  # caches of the other passes would take the memory of the next one
            parts = [replace(part, cached=None) for part in parts]
        samples = join(parts, self.policy.tokenizer.pad_id)
        if caches and samples.cached is None and self._fast_decoder is not None:
            return replace(samples, cached=[None] * len(turn))
        return samples

    def _pass(self, turn: Turn) -> Samples:
        """Sample all rows of a turn together."""
        if turn.width == 0:
            return no_tokens(len(turn))
        decoder = self._fast_decoder if self._fixed else None
        state, logits, repeats = self._read(turn, repeated=decoder is None)
        keep = turn.cached is not None and isinstance(state, KVCache)
        if decoder is not None and isinstance(state, KVCache):
            batch, loop = self._fixed_loop(decoder, turn, state.used)
            batch.begin(turn.limits, turn.uniforms)
            rows = torch.arange(len(repeats)).repeat_interleave(torch.tensor(repeats)).to(self.policy.device)
            caches = loop.run(state, logits, rows, turn.width, keep=keep)
        else:
            batch = self._new_batch(len(turn), turn.width, turn)
            batch.begin(turn.limits, turn.uniforms)
            # Tensors made in inference mode cannot be trained through. The optimized decoder makes only its caches
            # there, which no update uses.
            with torch.inference_mode() if isinstance(state, KVCache) else nullcontext():
                caches = self._run(batch, state, logits, turn.width, keep)
        samples = batch.samples()
        return replace(samples, cached=_prefixes(turn.contexts, samples, caches)) if keep else samples

    @property
    def _fast_decoder(self) -> FastDecoder | None:
        return self.policy.fast_decoder if isinstance(self.policy, SupportsCachedDecoding) else None

    def release(self) -> bool:
        """Drop the buffers and graphs of earlier rollouts; see `memory.release_buffers`."""
        had_buffers = bool(self._loops)
        self._loops.clear()
        return had_buffers

    def _read(self, turn: Turn, *, repeated: bool) -> tuple[DecodeState, Tensor, list[int]]:
        """Read the contexts: past their cached prefixes if each has a valid one, else in full, each group once.

        Args:
            turn: the rows.
            repeated: return a row of the state for each row of the turn, rather than for each group.

        Returns:
            The state, the logits of its rows, and how many rows of the turn each group has.
        """
        contexts = turn.contexts
        if turn.cached is not None and isinstance(self.policy, SupportsCachedDecoding):
            prefixes = [
                prefix
                for prefix, context in zip(turn.cached, contexts, strict=True)
                if prefix is not None and _is_prefix(prefix.tokens, context)
            ]
            if len(prefixes) == len(contexts):
                return *self.policy.extend_cache(contexts, prefixes), [1] * len(contexts)
        groups = [(list(context), len(list(rows))) for context, rows in groupby([tuple(c) for c in contexts])]
        counts = [count for _, count in groups]
        state, logits = self.policy.prefill(
            [context for context, _ in groups], counts if repeated else [1] * len(groups)
        )
        return state, logits, counts

    def _rows_that_fit(self, turn: Turn) -> int:
        """Return how many rows to sample together: all of them, or fewer after memory ran out or where it would."""
        decoder = self._fast_decoder if self._fixed else None
        _, slots = buffer_slots(turn.width, turn.longest)
        rows = len(turn)
        if self._max_slots is not None:
            rows = min(rows, max(1, self._max_slots // slots))
        free = free_bytes(self.policy.device)
        if free is None or decoder is None or self._key(turn, turn.longest) in self._loops:
            return rows
        # the buffers, the prompt that is read into them, and the logits with what is computed from them
        row_bytes = (slots + turn.longest) * decoder.bytes_per_slot + 4 * 4 * decoder.vocab_size
        if buffer_rows(rows) * row_bytes > _USABLE_SHARE * free and release_buffers():
            free = free_bytes(self.policy.device) or 0
        if buffer_rows(rows) * row_bytes > _USABLE_SHARE * free:
            return min(rows, _rows_within(int(_USABLE_SHARE * free / row_bytes)))
        return rows

    def _run(
        self, batch: DecodeBatch, state: DecodeState, logits: Tensor, width: int, keep: bool
    ) -> list[tuple[Tensor, KVCache]]:
        """Draw columns 1 to `width`; return rows and their caches in the order of removal if `keep`."""
        caches: list[tuple[Tensor, KVCache]] = []
        # on a GPU the number of active rows is known only after waiting for the device
        check_every = 1 if self.policy.device.type == "cpu" else CHECK_EVERY
        for column in range(1, width + 1):
            tokens = batch.draw(logits)
            if column == width:
                break
            active = batch.active[: len(tokens)]
            if column % check_every == 0:
                count = int(active.sum())
                if count == 0:
                    break
                if count <= _ACTIVE_SHARE * len(tokens):
                    remaining = active.nonzero().squeeze(1)
                    if keep and isinstance(state, KVCache):
                        finished = (~active).nonzero().squeeze(1)
                        caches.append((batch.rows[finished], state.take(finished)))
                    state.select(remaining)
                    batch.select(remaining)
                    tokens = tokens[remaining]
            logits = self.policy.decode(state, tokens)
        if keep and isinstance(state, KVCache):
            caches.append((batch.rows[: len(tokens)], state))
        return caches

    def _new_batch(self, size: int, width: int, turn: Turn) -> DecodeBatch:
        return DecodeBatch(
            size,
            width,
            turn.stop_ids,
            turn.sampling,
            greedy=turn.uniforms is None,
            pad_id=self.policy.tokenizer.pad_id,
            device=self.policy.device,
        )

    def _key(self, turn: Turn, longest: int) -> tuple[Any, ...]:
        """Return the sizes and settings of the buffers for a turn."""
        greedy = turn.uniforms is None
        return (buffer_rows(len(turn)), *buffer_slots(turn.width, longest), turn.stop_ids, turn.sampling, greedy)

    def _fixed_loop(self, decoder: FastDecoder, turn: Turn, longest: int) -> tuple[DecodeBatch, FixedBufferLoop]:
        """Return buffers and graphs for a turn, from an earlier one if the sizes and settings are equal."""
        key = self._key(turn, longest)
        if key not in self._loops:
            if len(self._loops) == _LOOPS:
                self._loops.pop(next(iter(self._loops)))  # the oldest
            size, width, slots = key[:3]
            batch = self._new_batch(size, width, turn)
            self._loops[key] = batch, FixedBufferLoop(decoder, batch, slots, self.policy.device, self._graph_pool)
        return self._loops[key]


def _rows_within(count: int) -> int:
    """Return the largest number of rows up to `count`, at least 1, that buffers are not rounded up for."""
    return count // 32 * 32 if count >= 32 else 1 << max(0, count.bit_length() - 1)


def _is_prefix(tokens: Sequence[int], context: Sequence[int]) -> bool:
    """Return True if the context begins with the tokens and is longer."""
    return len(tokens) < len(context) and list(context[: len(tokens)]) == list(tokens)


def _prefixes(
    contexts: Sequence[Sequence[int]], samples: Samples, caches: Sequence[tuple[Tensor, KVCache]]
) -> list[CachedPrefix | None]:
    """Return the cached prefix of each row: its context and its sampled tokens, as far as the cache holds them.

    The last sampled token is not in the cache: it was drawn, and not read.
    """
    prefixes: list[CachedPrefix | None] = [None] * len(contexts)
    for rows, cache in caches:
        for place, (row, length) in enumerate(zip(rows.tolist(), cache.positions.tolist(), strict=True)):
            if row >= len(contexts):
                continue  # a place without a row, in buffers of fixed size
            tokens = samples.tokens[row, : samples.lengths[row]].tolist()
            prefixes[row] = CachedPrefix([*contexts[row], *tokens][:length], cache, place)
    return prefixes
