"""Forward passes over the rows of a rollout, by micro-batches that fit the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlalign.policies.base import Policy, TokenScores
from rlalign.policies.scoring.packing import to_device
from rlalign.policies.scoring.protocol import SupportsPacking
from rlalign.types import Sampling

T = TypeVar("T")
_CPU_TOKENS = 8192  # of a micro-batch on a CPU: more are no faster
_CPU_BYTES = 1 << 32  # and what they leave for its backward pass: nothing there says in time that memory runs out


class MicroBatcher:
    """Passes of one policy.

    Args:
        policy: what scores.
        sampling: the distribution that actions were drawn from.
        micro_batch: rows that go together at most; 0 is all of them, and on a CPU as many as have 8,192 tokens to be
            read, or fewer where those would leave more than about 4 GiB for the backward pass.
    """

    def __init__(self, policy: Policy, sampling: Sampling, micro_batch: int) -> None:
        self.policy, self.sampling, self.micro_batch = policy, sampling, micro_batch

    def micro_batches(self, rows: Tensor, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Sequence[Tensor]:
        """Row indices of each micro-batch. Sums over them are the same however they are cut.

        Rows stay by their group where the policy reads its prompt once, and a group is cut only if it has to be.
        Elsewhere rows of like length come together, for less padding.
        """
        if not self.micro_batch and self.policy.device.type != "cpu":
            return [rows]
        packs = isinstance(self.policy, SupportsPacking) and self.policy.packs
        order = rows.sort().values if packs else rows[torch.argsort(lengths[rows], stable=True)]
        whole, ends = lengths[order], [True] * len(order)
        more = whole  # what a row costs after another one
        if packs:
            prompts, ends = _prompts(tokens[order], whole, mask[order])
            more = torch.where(torch.tensor([True, *ends[:-1]]), whole, whole - prompts)
        if self.micro_batch:
            whole, more, limit = torch.ones_like(whole), torch.ones_like(whole), self.micro_batch
        else:
            limit = _CPU_TOKENS
            if torch.is_grad_enabled():
                limit = max(1, min(limit, _CPU_BYTES // max(1, self._bytes_of_token)))
        return torch.split(order, even_cut(more.tolist(), ends, limit, whole.tolist()))

    @cached_property
    def _bytes_of_token(self) -> int:
        """About what a token leaves for the backward pass: what goes into the products with weights and comes out of
        them in float32, and as much again for norms, attention and activations, in rows of some hundred tokens a fifth
        to two thirds more than was measured. 0 with gradient checkpointing, where little is left."""
        if any(getattr(m, "gradient_checkpointing", False) for m in self.policy.modules()):
            return 0
        trained = (m for name, m in self.policy.named_modules() if not name.startswith("reference."))
        weights = (m._parameters.get("weight") for m in trained if not isinstance(m, nn.Embedding))
        return 2 * 4 * sum(sum(w.shape) for w in weights if w is not None and w.ndim == 2)

    def within_memory(self, work: Callable[[], T], rows: int) -> T:
        """The result of work that goes by micro-batches, these halved until it fits."""
        while True:
            try:
                return work()
            except torch.cuda.OutOfMemoryError:
                size = min(self.micro_batch or rows, rows)
                if size == 1:
                    raise
                self.micro_batch = size // 2
            torch.cuda.empty_cache()

    def score(
        self,
        tokens: Tensor,
        lengths: Tensor,
        mask: Tensor,
        *,
        entropy: bool = False,
        values: bool = False,
        sampling: Sampling | None = None,
    ) -> TokenScores:
        """Score the columns that these rows reach, with gradient; the rest is 0."""
        width, full = int(lengths.max()), tokens.shape[1]
        s = self.policy.score(
            tokens[:, :width], lengths, mask[:, :width], sampling or self.sampling, entropy=entropy, values=values
        )
        if width == full:
            return s
        more = (0, full - width)
        return TokenScores(
            logprobs=pad(s.logprobs, more),
            entropies=None if s.entropies is None else pad(s.entropies, more),
            values=None if s.values is None else pad(s.values, more),
            final_values=s.final_values,
        )

    def reference(self, tokens: Tensor, lengths: Tensor, mask: Tensor) -> TokenScores:
        """Log-probs under the frozen start."""
        return TokenScores(self.policy.reference_logprobs(tokens, lengths, mask, self.sampling))

    def all(self, score: Callable[..., TokenScores], tokens: Tensor, lengths: Tensor, mask: Tensor) -> TokenScores:
        """What `score` says of all rows, by micro-batches."""

        def work() -> TokenScores:
            order = self.micro_batches(torch.arange(len(tokens)), tokens, lengths, mask)
            parts = [score(tokens[p], lengths[p], mask[p]) for p in order]
            back = to_device(torch.cat(list(order)).argsort(), self.policy.device)

            def whole(name: str) -> Any:
                found = [getattr(part, name) for part in parts]
                return None if found[0] is None else torch.cat(found)[back]

            return TokenScores(**{f.name: whole(f.name) for f in fields(TokenScores)})

        return self.within_memory(work, len(tokens))


def cut(costs: Sequence[int], ends: Sequence[bool], limit: int, firsts: Sequence[int]) -> list[int]:
    """Sizes of consecutive parts that cost up to `limit` each, cut after a row of `ends` where one is within reach.

    The first row of a part costs what `firsts` says. One that costs more than the limit is a part of its own.
    """
    sizes, start = list[int](), 0
    while start < len(costs):
        total, reached, stop = firsts[start], start + 1, 0
        while True:
            stop = reached if ends[reached - 1] else stop
            if reached == len(costs) or total + costs[reached] > limit:
                break
            total, reached = total + costs[reached], reached + 1
        sizes.append((stop or reached) - start)
        start += sizes[-1]
    return sizes


def even_cut(costs: Sequence[int], ends: Sequence[bool], limit: int, firsts: Sequence[int]) -> list[int]:
    """As `cut`, in no more parts and no more cuts within groups, but parts of about one cost.

    A large part and a small one take longer than two of like size.
    """

    def badness(sizes: Sequence[int]) -> tuple[int, int]:
        return len(sizes), sum(not ends[stop - 1] for stop in accumulate(sizes))

    best = cut(costs, ends, limit, firsts)
    least, low, high = badness(best), sum(costs) // len(best), limit
    while len(best) > 1 and low < high:
        middle = (low + high) // 2
        sizes = cut(costs, ends, middle, firsts)
        if badness(sizes) > least:
            low = middle + 1
        else:
            best, least, high = sizes, badness(sizes), middle
    return best


def _prompts(tokens: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, list[bool]]:
    """The length of each row's prompt, which is what stands before its first action, int64 [N]; and whether its
    successor has another one."""
    before = mask.long().cumsum(1) == 0
    prompt = torch.where(before, tokens, -1)  # no token is -1, so that prompts of different lengths differ
    return before.sum(1).minimum(lengths), [*(prompt[1:] != prompt[:-1]).any(1).tolist(), True]
