"""The interface of policies that decode with the optimized decoder and can continue from its cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from rlalign.policies.sampling.fast_decoder import FastDecoder, KVCache
from rlalign.policies.sampling.sampler import CachedPrefix


@runtime_checkable
class SupportsCachedDecoding(Protocol):
    """A policy whose `prefill` returns a `KVCache` if it has a `fast_decoder`.

    The cached tokens of one turn can then be used in the next one, and decode steps can be captured in CUDA graphs.
    """

    @property
    def fast_decoder(self) -> FastDecoder | None:
        """The optimized decoder; None if it does not support the model."""
        ...

    def extend_cache(self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]) -> tuple[KVCache, Tensor]:
        """Read the part of each context that is not cached; only valid with a `fast_decoder`.

        Args:
            contexts: token ids of n contexts.
            cached: a cached beginning of each context.

        Returns:
            As `Policy.prefill` with one row per context: the cache and the float32 logits [n, V] of the next token.
        """
        ...
