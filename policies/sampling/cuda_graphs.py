"""Decoding in buffers of fixed size: on CUDA a step is one captured graph, and the host waits for nothing.

A step of a small batch is hundreds of short kernels, whose launching takes longer than their running. A graph holds a
whole step, drawing included, for one number of rows; finished rows leave when half of them have, which is another
graph. Whether rows have finished is read one look late, when the answer has arrived anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.policies.sampling.fast_decoder import LeanModel, LeanState
from rlalign.policies.sampling.fast_layer import Column

_CHECK_EVERY = 8
"""Tokens between two looks at which rows have finished."""


class FixedLoop:
    """Buffers for a number of rows and slots, and the graphs over them, for as many rollouts as fit into them.

    Args:
        model: what decodes.
        turns: of as many rows as there are to be places.
        slots: of a context, prompt and turn.
        device: CUDA for graphs; elsewhere the same steps are run one by one.
    """

    def __init__(self, model: LeanModel, turns: DecodeBatch, slots: int, device: torch.device) -> None:
        size = len(turns.rows)
        self._model, self._turns, self._slots = model, turns, slots
        self._keys, self._values = model.room(size, slots, device)
        self._hidden = torch.zeros(size, slots, dtype=self._keys.dtype, device=device)
        self._next, self._positions = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._count = torch.zeros(1, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._looked: torch.cuda.Event | None = None
        self._captures = device.type == "cuda"
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}

    def run(self, state: LeanState, logits: Tensor, width: int, *, keep: bool) -> list[tuple[Tensor, LeanState]]:
        """Say up to `width` tokens a row on from a state and the logits of the first.

        Returns the rows in the order in which they left, with their states, if they are to be kept.
        """
        left: list[tuple[Tensor, LeanState]] = []
        self._model.check_length(state.longest + width - 1)  # no step may fail: the device is ahead of the host
        self._load(state)
        size, column = len(self._turns.rows), 1
        self._next[: len(logits)] = self._turns.draw(logits)
        while column < width:
            for _ in range(min(_CHECK_EVERY, width - column)):
                self._advance(size)
                column += 1
            live = self._look(size)
            if live == 0:
                break
            smaller = bucket(live)
            if smaller < size:
                order = self._turns.live[:size].long().argsort(descending=True, stable=True)
                if keep:
                    left.append(self._taken(order[smaller:], state.longest + column - 1))
                self._compact(order[:smaller])
                size = smaller
        if keep:
            left.append(self._taken(torch.arange(size, device=self._at.device), state.longest + column - 1))
        return left

    def _load(self, state: LeanState) -> None:
        n, used = len(state.positions), state.longest
        self._keys[:, :n, ..., :used] = state.keys[..., :used]
        self._values[:, :n, :, :used] = state.values[..., :used, :]
        self._hidden.fill_(-torch.inf)
        self._hidden[:n, :used] = 0.0 if state.hidden is None else state.hidden[:, :used]
        self._positions.zero_()
        self._positions[:n] = state.positions
        self._next.zero_()
        self._at.fill_(used)
        self._looked = None

    def _step(self, size: int) -> None:
        """One token for the first `size` places; everything in place."""
        hidden = self._hidden[:size]
        hidden.index_fill_(1, self._at, 0.0)
        column = Column(self._at, self._slots, self._model.of_heads(hidden))
        keys, values = self._keys[:, :size], self._values[:, :size]
        h = self._model.step(self._next[:size], self._positions[:size], keys, values, column)
        self._positions[:size] += 1
        self._at += 1
        self._next[:size] = self._turns.draw(self._model.head(h).float())

    def _advance(self, size: int) -> None:
        """A step: the first of a size as it is, which warms everything up, the others as its graph."""
        if size in self._graphs and self._captures and self._graphs[size] is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):  # records, and runs nothing
                    self._step(size)
                self._graphs[size] = graph
            except RuntimeError as error:
                self._captures = False
                warnings.warn(f"decoding without CUDA graphs, which is slower: {error}", stacklevel=2)
        known = self._graphs.setdefault(size, None)
        if known is None:
            self._step(size)
        else:
            known.replay()

    def _look(self, size: int) -> int:
        """How many rows go on; on CUDA how many did at the last look, which is never fewer."""
        count = self._turns.live[:size].sum()
        if self._at.device.type != "cuda":
            return int(count)
        before = size
        if self._looked is not None:
            self._looked.synchronize()  # long past
            before = int(self._count)
        self._count.copy_(count[None], non_blocking=True)
        self._looked = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
        self._looked.record()
        return before

    def _compact(self, stay: Tensor) -> None:
        """Let the given places be the first."""
        self._turns.select(stay)
        for buffer in (self._next, self._positions, self._hidden, *self._keys, *self._values):
            buffer[: len(stay)] = buffer[stay]

    def _taken(self, places: Tensor, longest: int) -> tuple[Tensor, LeanState]:
        whole = LeanState(self._keys, self._values, None, self._positions, longest)
        return self._turns.rows[places], whole.take(places)


def bucket(count: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, count - 1).bit_length()


def fits(limits: Sequence[int], longest: int) -> tuple[int, int, int]:
    """(rows, width, slots) of the buffers for turns of these limits: rounded up, so that like rollouts share them."""
    width = -(-max(limits) // 64) * 64
    return bucket(len(limits)), width, -(-(longest + width) // 128) * 128
