"""The sampler interface: continue contexts with tokens drawn from a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.base import check_contexts
from rlalign.types import Sampling


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Cached keys and values of the beginning of a context, for the next turn. Invalid once the weights change.

    Attributes:
        tokens: the cached tokens.
        state: the `KVCache` that holds them.
        row: their row in it.
    """

    tokens: Sequence[int]
    state: Any
    row: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Sampled turns of N rows of at most T tokens, on the CPU.

    Attributes:
        tokens: int64 [N, T], right-padded with the tokenizer's pad id.
        lengths: int64 [N], sampled tokens per row, including a sampled stop token.
        logprobs: float32 [N, T], log-prob of each sampled token under the sampling distribution, 0 past the length.
        cached: cached beginning of each context for the next turn, N entries, if requested; see `Sampler.sample`.
    """

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    cached: Sequence[CachedPrefix | None] | None = None


class Sampler(Protocol):
    """Continues contexts with tokens drawn from a policy. `rlalign.policies.factory.make_sampler` builds one."""

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
        """Draw tokens of each row until a stop id or its limit.

        Args:
            contexts: token ids of N contexts. Equal neighbors (a group) are read once.
            max_new: tokens per row at most, for all rows or per row.
            stop_ids: ids that end a turn.
            sampling: the distribution to draw from.
            generator: random numbers, on the policy's device.
            greedy: take the most probable token. Its log-probs are still those of the sampling distribution.
            cached: in episodes of several turns, `Samples.cached` of each context in the previous turn, None in the
                first turn. A sampler that supports it then reads only the tokens that are not cached. None: nothing is
                cached.

        Returns:
            Tokens, lengths and log-probs, a row per context; see `Samples`.

        Raises:
            UserError: a context is empty, or the limits do not match the contexts.
        """
        ...


def token_limits(contexts: Sequence[Sequence[int]], max_new: int | Sequence[int]) -> list[int]:
    """Return the limit of each row; raise UserError for limits that do not match the contexts, or an empty context."""
    limits = [max_new] * len(contexts) if isinstance(max_new, int) else [int(limit) for limit in max_new]
    if not contexts or len(limits) != len(contexts) or min(limits) < 0:
        raise UserError(
            f"expected one token limit of 0 or more per context, got {len(contexts)} contexts and token limits "
            f"{limits[:8]}; use max_new=N for all rows"
        )
    check_contexts(contexts)
    return limits


def no_tokens(count: int) -> Samples:
    """Return samples of no token for `count` rows."""
    return Samples(
        torch.zeros(count, 0, dtype=torch.int64), torch.zeros(count, dtype=torch.int64), torch.zeros(count, 0)
    )
