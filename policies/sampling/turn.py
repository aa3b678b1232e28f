"""One call of a sampler as data: rows, limits and uniform numbers, and parts of it that are sampled one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlalign.policies.sampling.sampler import CachedPrefix, Samples
from rlalign.types import Sampling


@dataclass(frozen=True)
class Turn:
    """The arguments of `Sampler.sample` for N rows.

    Attributes:
        contexts: token ids of N contexts.
        limits: N token limits.
        uniforms: float64 [max(limits), N] on the policy's device; None to take the most probable token.
        stop_ids: ids that end a turn.
        sampling: the distribution to draw from.
        cached: cached beginning of each context; None: nothing is cached, and nothing is to be.
    """

    contexts: Sequence[Sequence[int]]
    limits: Sequence[int]
    uniforms: Tensor | None
    stop_ids: frozenset[int]
    sampling: Sampling
    cached: Sequence[CachedPrefix | None] | None

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest context."""
        return max(map(len, self.contexts))

    @property
    def width(self) -> int:
        """The largest limit."""
        return max(self.limits)

    def rows(self, start: int, stop: int) -> Turn:
        """Return the rows from `start` to `stop`."""
        if start == 0 and stop == len(self):
            return self
        limits = self.limits[start:stop]
        uniforms = None if self.uniforms is None else self.uniforms[: max(limits), start:stop]
        cached = None if self.cached is None else self.cached[start:stop]
        return replace(self, contexts=self.contexts[start:stop], limits=limits, uniforms=uniforms, cached=cached)


def join(parts: Sequence[Samples], pad_id: int) -> Samples:
    """Return the samples of all parts, in order. What one part has not cached, none of them has."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.tokens.shape[1] for part in parts)
    cached: list[CachedPrefix | None] | None = None
    if all(part.cached is not None for part in parts):
        cached = [prefix for part in parts for prefix in part.cached or ()]
    return Samples(
        torch.cat([pad(part.tokens, (0, width - part.tokens.shape[1]), value=pad_id) for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat([pad(part.logprobs, (0, width - part.logprobs.shape[1])) for part in parts]),
        cached,
    )
