"""Forward passes over the rows of a rollout, in micro-batches that fit the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlalign.policies.base import Policy, TokenScores
from rlalign.policies.memory import empty_cache, is_out_of_memory, release_buffers
from rlalign.policies.scoring.packing import to_device
from rlalign.policies.scoring.protocol import SupportsPacking

T = TypeVar("T")
_CPU_TOKENS = 8192  # per micro-batch on a CPU; larger ones are not faster
_CPU_BYTES = 1 << 32  # per micro-batch on a CPU, for the backward pass: a CPU raises no error before memory runs out


class MicroBatcher:
    """Scores rows with one policy, in micro-batches.

    Args:
        policy: the policy that scores.
        micro_batch: rows per micro-batch at most. 0 is all rows; on a CPU it is as many as have 8,192 tokens to read,
            or fewer where those would need more than about 4 GiB for the backward pass.
        unit: neighboring rows that are never divided: 2 for a loss on pairs of rows.
    """

    def __init__(self, policy: Policy, micro_batch: int, *, unit: int = 1) -> None:
        self.policy = policy
        self.micro_batch = micro_batch
        self.unit = unit

    def split(self, rows: Tensor, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Sequence[Tensor]:
        """Return the row indices of each micro-batch. Sums over them do not depend on the split.

        Rows of a group stay together where the policy reads their prompt once; a group is cut only if it does not fit.
        For other policies rows of similar length come together, for less padding.

        Args:
            rows: int64 [n], the rows to split.
            tokens, lengths, mask: [N, L], [N] and [N, L] of all rows, on the CPU.
        """
        if not self.micro_batch and self.policy.device.type != "cpu":
            return [rows]
        packs = isinstance(self.policy, SupportsPacking) and self.policy.packs
        if self.unit > 1:
            return self._split_units(rows.sort().values.view(-1, self.unit), lengths)
        order = rows.sort().values if packs else rows[torch.argsort(lengths[rows], stable=True)]
        first_cost = lengths[order]  # tokens that a row adds as the first one of its micro-batch
        next_cost = first_cost  # tokens that it adds after another row
        ends_group = [True] * len(order)
        if packs:
            prompts, ends_group = _prompts(tokens[order], lengths[order], mask[order])
            starts_group = torch.tensor([True, *ends_group[:-1]])
            next_cost = torch.where(starts_group, first_cost, first_cost - prompts)
        limit = self.micro_batch
        if self.micro_batch:
            first_cost = torch.ones_like(first_cost)
            next_cost = torch.ones_like(next_cost)
        else:
            limit = self._token_limit()
        return torch.split(order, even_cut(next_cost.tolist(), ends_group, limit, first_cost.tolist()))

    def _split_units(self, units: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Return the row indices of each micro-batch of whole units, int64 [n / unit, unit]; similar lengths together.

        A micro-batch has one unit at least, also where the limit is smaller.
        """
        units = units[torch.argsort(lengths[units].sum(1), stable=True)]
        if self.micro_batch:
            costs = [self.unit] * len(units)
            limit = self.micro_batch
        else:
            costs = lengths[units].sum(1).tolist()
            limit = self._token_limit()
        return [part.flatten() for part in torch.split(units, even_cut(costs, [True] * len(units), limit, costs))]

    def _token_limit(self) -> int:
        """Return the largest number of tokens of a micro-batch on a CPU."""
        if not torch.is_grad_enabled():
            return _CPU_TOKENS
        return max(1, min(_CPU_TOKENS, _CPU_BYTES // max(1, self.bytes_per_token)))

    @cached_property
    def bytes_per_token(self) -> int:
        """Approximate bytes that a token keeps for the backward pass; 0 with gradient checkpointing.

        Counts the inputs and outputs of all matrix products with weights, in float32, and as much again for norms,
        attention and activations. For rows of a few hundred tokens that is 20 to 70 % above the measured value.
        """
        if any(getattr(m, "gradient_checkpointing", False) for m in self.policy.modules()):
            return 0
        trained = (m for name, m in self.policy.named_modules() if not name.startswith("reference."))
        weights = (m._parameters.get("weight") for m in trained if not isinstance(m, nn.Embedding))
        return 2 * 4 * sum(sum(w.shape) for w in weights if w is not None and w.ndim == 2)

    def within_memory(self, rows: int, function: Callable[[], T]) -> T:
        """Return `function()`, which is called again while memory runs out.

        Between two calls the buffers of decoding are dropped or, if there were none, the micro-batch is halved.

        Args:
            rows: the number of rows that the function passes to `split`.
            function: its result does not depend on the split, and it can be called again.

        Raises:
            RuntimeError: memory ran out for a single row.
        """
        while True:
            try:
                return function()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not (release_buffers() or self.halve(rows)):
                    raise
            empty_cache()

    def halve(self, rows: int) -> bool:
        """Halve the micro-batch for `rows` rows; return False when it is one unit already."""
        size = min(self.micro_batch or rows, rows)
        if size <= self.unit:
            return False
        self.micro_batch = size // 2
        return True

    def score_all(
        self, score: Callable[..., TokenScores], tokens: Tensor, lengths: Tensor, mask: Tensor
    ) -> TokenScores:
        """Return `score(tokens, lengths, mask)` of all N rows, computed in micro-batches, without gradient."""
        return self.within_memory(len(tokens), lambda: self._score_all(score, tokens, lengths, mask))

    def _score_all(
        self, score: Callable[..., TokenScores], tokens: Tensor, lengths: Tensor, mask: Tensor
    ) -> TokenScores:
        order = self.split(torch.arange(len(tokens)), tokens, lengths, mask)
        parts = [score(tokens[rows], lengths[rows], mask[rows]) for rows in order]
        inverse = to_device(torch.cat(list(order)).argsort(), self.policy.device)  # back to the order of the rollout

        def join(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)[inverse]

        return TokenScores(**{field.name: join(field.name) for field in fields(TokenScores)})


def cut(costs: Sequence[int], ends: Sequence[bool], limit: int, first_costs: Sequence[int]) -> list[int]:
    """Return the sizes of consecutive parts that cost up to `limit` each.

    A part ends after a row of `ends` (the last of a group) if one lies within the limit. A row that costs more than the
    limit is a part of its own.

    Args:
        costs: what a row adds to the part of the row before it.
        ends: whether the row is the last of its group.
        limit: largest cost of a part.
        first_costs: what a row costs as the first of a part.
    """
    sizes: list[int] = []
    start = 0
    while start < len(costs):
        total = first_costs[start]
        reached = start + 1
        stop = 0  # after the last group that ends within the limit
        while True:
            stop = reached if ends[reached - 1] else stop
            if reached == len(costs) or total + costs[reached] > limit:
                break
            total += costs[reached]
            reached += 1
        sizes.append((stop or reached) - start)
        start += sizes[-1]
    return sizes


def even_cut(costs: Sequence[int], ends: Sequence[bool], limit: int, first_costs: Sequence[int]) -> list[int]:
    """As `cut`, with no more parts and no more cuts within groups, but parts of similar cost.

    One large and one small part take longer than two of equal size. The smallest limit that gives no worse split than
    `limit` is found by bisection.
    """

    def badness(sizes: Sequence[int]) -> tuple[int, int]:
        return len(sizes), sum(not ends[stop - 1] for stop in accumulate(sizes))

    best = cut(costs, ends, limit, first_costs)
    allowed = badness(best)
    low = sum(costs) // len(best)
    high = limit
    while len(best) > 1 and low < high:
        middle = (low + high) // 2
        sizes = cut(costs, ends, middle, first_costs)
        if badness(sizes) > allowed:
            low = middle + 1
        else:
            best = sizes
            allowed = badness(sizes)
            high = middle
    return best


def _prompts(tokens: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, list[bool]]:
    """Return the length of each row's prompt, int64 [N], and whether the next row has another prompt.

    The prompt is everything before the row's first action.
    """
    before_actions = mask.long().cumsum(1) == 0
    prompt = torch.where(before_actions, tokens, -1)  # no token is -1, so prompts of different lengths differ
    changes = (prompt[1:] != prompt[:-1]).any(1).tolist()
    return before_actions.sum(1).minimum(lengths), [*changes, True]
