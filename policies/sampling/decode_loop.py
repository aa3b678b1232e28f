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
from rlalign.policies.sampling.cuda_graphs import CHECK_EVERY, FixedBufferLoop, buffer_sizes
from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.policies.sampling.fast_decoder import KVCache
from rlalign.policies.sampling.protocol import SupportsCachedDecoding
from rlalign.policies.sampling.sampler import CachedPrefix, Samples, no_tokens, token_limits
from rlalign.types import Sampling

_ACTIVE_SHARE = 0.75
"""Finished rows are removed from the batch when the share of active rows falls to this."""
_LOOPS = 4
"""Number of kinds of rollout (training, evaluation, ...) whose buffers and graphs are kept."""


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
        """Continue each context; see `Sampler.sample`."""
        limits = token_limits(contexts, max_new)
        width = max(limits)
        if width == 0:
            return no_tokens(len(contexts))
        state, logits = self._read(contexts, cached)
        keep = cached is not None and isinstance(state, KVCache)
        if self._fixed and isinstance(state, KVCache):
            batch, loop = self._fixed_loop(limits, state.used, stop_ids, sampling, greedy)
            batch.begin(limits, generator)
            caches = loop.run(state, logits, width, keep=keep)
        else:
            batch = self._new_batch(len(contexts), width, stop_ids, sampling, greedy)
            batch.begin(limits, generator)
            # Tensors made in inference mode cannot be trained through. The optimized decoder makes only its caches
            # there, which no update uses.
            with torch.inference_mode() if isinstance(state, KVCache) else nullcontext():
                caches = self._run(batch, state, logits, width, keep)
        samples = batch.samples()
        return replace(samples, cached=_prefixes(contexts, samples, caches)) if keep else samples

    def _read(
        self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix | None] | None
    ) -> tuple[DecodeState, Tensor]:
        """Read the contexts: past their cached prefixes if each has a valid one, else in full, each group once."""
        if cached is not None and isinstance(self.policy, SupportsCachedDecoding):
            prefixes = [
                prefix
                for prefix, context in zip(cached, contexts, strict=True)
                if prefix is not None and _is_prefix(prefix.tokens, context)
            ]
            if len(prefixes) == len(contexts):
                return self.policy.extend_cache(contexts, prefixes)
        groups = [(list(context), len(list(rows))) for context, rows in groupby([tuple(c) for c in contexts])]
        return self.policy.prefill([context for context, _ in groups], [count for _, count in groups])

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

    def _new_batch(
        self, size: int, width: int, stop_ids: frozenset[int], sampling: Sampling, greedy: bool
    ) -> DecodeBatch:
        pad_id = self.policy.tokenizer.pad_id
        return DecodeBatch(size, width, stop_ids, sampling, greedy=greedy, pad_id=pad_id, device=self.policy.device)

    def _fixed_loop(
        self, limits: Sequence[int], longest: int, stop_ids: frozenset[int], sampling: Sampling, greedy: bool
    ) -> tuple[DecodeBatch, FixedBufferLoop]:
        """Return buffers and graphs for such a rollout, from an earlier one if the sizes and settings are equal."""
        size, width, slots = buffer_sizes(limits, longest)
        key = (size, width, slots, stop_ids, sampling, greedy)
        if key not in self._loops:
            if len(self._loops) == _LOOPS:
                self._loops.pop(next(iter(self._loops)))  # the oldest
            batch = self._new_batch(size, width, stop_ids, sampling, greedy)
            assert isinstance(self.policy, SupportsCachedDecoding)
            decoder = self.policy.fast_decoder
            assert decoder is not None
            self._loops[key] = batch, FixedBufferLoop(decoder, batch, slots, self.policy.device)
        return self._loops[key]


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
