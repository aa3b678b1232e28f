"""Decoding state per row: sampled tokens, uniforms used, rows still active.

All operations work in place in buffers on the device, the column number included, so that a CUDA graph can capture
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlalign.policies.logits import draw
from rlalign.policies.sampling.sampler import Samples
from rlalign.types import Sampling


class DecodeBatch:
    """Up to `size` rows of up to `width` tokens. A batch of m rows occupies the first m places of `rows` and `active`.

    Args:
        size: rows of the buffers.
        width: columns of the buffers.
        stop_ids: tokens that end a turn.
        sampling: the distribution to draw from.
        greedy: take the most probable token instead.
        pad_id: token past the end of a row.
        device: device of the buffers.

    Attributes:
        rows: int64 [size], the row in each place.
        active: bool [size], true until the row in the place has ended.
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
        self._sampling = sampling
        self._pad_id = pad_id
        # [width, size], so that a step writes to contiguous memory
        self._tokens = torch.full((width, size), pad_id, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(width, size, device=device)
        self._uniforms = None if greedy else torch.zeros(width, size, dtype=torch.float64, device=device)
        self._lengths = torch.zeros(size, dtype=torch.int64, device=device)
        self._limits = torch.zeros(size, dtype=torch.int64, device=device)
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self._column = torch.zeros(1, dtype=torch.int64, device=device)
        self.rows = torch.arange(size, device=device)
        self.active = torch.zeros(size, dtype=torch.bool, device=device)
        self.count = 0

    def begin(self, limits: Sequence[int], uniforms: Tensor | None) -> None:
        """Begin the turns of n rows.

        Args:
            limits: n token limits.
            uniforms: float64 [max(limits), n], uniform numbers of each token; None if tokens are not drawn.
        """
        self.count = len(limits)
        for buffer, value in ((self._tokens, self._pad_id), (self._logprobs, 0), (self._lengths, 0), (self._limits, 0)):
            buffer.fill_(value)
        self._column.zero_()
        self._limits[: self.count] = torch.tensor(limits, device=self._limits.device)
        if self._uniforms is not None and uniforms is not None:
            self._uniforms[: max(limits), : self.count] = uniforms
        torch.arange(len(self.rows), out=self.rows)
        torch.gt(self._limits, 0, out=self.active)

    def draw(self, logits: Tensor) -> Tensor:
        """Draw the next token [m] of the batch from its logits [m, V], and record those of active rows."""
        size = len(logits)
        rows, active = self.rows[:size], self.active[:size]
        # the column is a tensor on the device: a number would be a constant in a captured graph
        u = None if self._uniforms is None else self._uniforms.index_select(0, self._column)[0, rows]
        tokens, logprobs = draw(logits, self._sampling, u)
        at = (self._column, rows)
        self._tokens.index_put_(at, torch.where(active, tokens, self._pad_id))
        self._logprobs.index_put_(at, torch.where(active, logprobs, 0.0))
        self._lengths.index_add_(0, rows, active.long())
        self._column += 1
        # in place: `active` is a view of the buffer
        active &= (self._limits[rows] > self._column) & ~(tokens[:, None] == self._stop_ids).any(dim=1)
        return tokens

    def select(self, places: Tensor) -> None:
        """Move the given places to the front; the batch then has len(places) rows."""
        for buffer in (self.rows, self.active):
            buffer[: len(places)] = buffer[places]

    def samples(self) -> Samples:
        """Return the sampled tokens, on the CPU. They stay as they are when the buffers are used again."""
        lengths = self._lengths[: self.count].to("cpu", copy=True)
        longest = int(lengths.max())
        tokens, logprobs = (
            buffer[:longest, : self.count].t().to("cpu", copy=True).contiguous()
            for buffer in (self._tokens, self._logprobs)
        )
        return Samples(tokens, lengths, logprobs)
