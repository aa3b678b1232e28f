"""The turns of a batch under way: what was drawn, by which uniform numbers, and who may go on.

Everything happens in place in buffers on the device, the column included, so that a captured graph can go through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlalign.policies.base import Samples
from rlalign.policies.logits import draw
from rlalign.types import Sampling


class DecodeBatch:
    """Up to `size` rows of up to `width` tokens. A batch is the first m places of `rows` and `live`.

    Args:
        size, width: of the buffers.
        stop_ids: tokens that end a turn.
        sampling: the distribution to draw from.
        greedy: take the most probable token instead.
        pad_id: what stands past a row's end.
        device: where to keep it.

    Attributes:
        rows: int64 [size], which row is in each place.
        live: bool [size], whether it goes on.
    """

    def __init__(
        self,
        size: int,
        width: int,
        stop_ids: frozenset[int],
        sampling: Sampling,
        *,
        greedy: bool,
        pad_id: int,
        device: torch.device,
    ) -> None:
        self._sampling, self._pad = sampling, pad_id
        # column by column, so that a step writes to one stretch of memory
        self._tokens = torch.full((width, size), pad_id, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(width, size, device=device)
        self._u = None if greedy else torch.zeros(width, size, dtype=torch.float64, device=device)
        self._lengths = torch.zeros(size, dtype=torch.int64, device=device)
        self._limit = torch.zeros(size, dtype=torch.int64, device=device)
        self._stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self._column = torch.zeros(1, dtype=torch.int64, device=device)
        self.rows = torch.arange(size, device=device)
        self.live = torch.zeros(size, dtype=torch.bool, device=device)
        self.count = 0

    def begin(self, limits: Sequence[int], generator: torch.Generator) -> None:
        """Begin the turns of len(limits) rows, each with its limit and with uniform numbers of its own."""
        self.count, width = len(limits), max(limits)
        for buffer, value in ((self._tokens, self._pad), (self._logprobs, 0), (self._lengths, 0), (self._limit, 0)):
            buffer.fill_(value)
        self._column.zero_()
        self._limit[: self.count] = torch.tensor(limits, device=self._limit.device)
        if self._u is not None:
            drawn = torch.rand(
                width, self.count, dtype=torch.float64, device=self._u.device, generator=generator
            )  # of the rows that there are, so that the size of the buffers changes nothing
            self._u[:width, : self.count] = drawn
        torch.arange(len(self.rows), out=self.rows)
        torch.gt(self._limit, 0, out=self.live)

    def draw(self, logits: Tensor) -> Tensor:
        """Draw the next token [m] of the batch from its logits [m, V], and note those of the rows that go on."""
        size = len(logits)
        rows, live = self.rows[:size], self.live[:size]
        u = None if self._u is None else self._u.index_select(0, self._column)[0, rows]
        drawn, chosen = draw(logits, self._sampling, u)
        at = (self._column, rows)
        self._tokens.index_put_(at, torch.where(live, drawn, self._pad))
        self._logprobs.index_put_(at, torch.where(live, chosen, 0.0))
        self._lengths.index_add_(0, rows, live.long())
        self._column += 1
        live &= (self._limit[rows] > self._column) & ~(drawn[:, None] == self._stops).any(dim=1)
        return drawn

    def select(self, stay: Tensor) -> None:
        """Let the given places be the first."""
        for buffer in (self.rows, self.live):
            buffer[: len(stay)] = buffer[stay]

    def samples(self) -> Samples:
        """What was said."""
        lengths = self._lengths[: self.count].cpu()
        used = int(lengths.max())
        tokens, logprobs = (t[:used, : self.count].t().cpu().contiguous() for t in (self._tokens, self._logprobs))
        return Samples(tokens, lengths, logprobs)
