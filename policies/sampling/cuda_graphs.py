"""Decoding in buffers of fixed size: on CUDA a step is one captured graph, and the host does not wait for the device.

A step of a small batch consists of hundreds of short kernels, and launching them takes longer than running them. A
graph holds a complete step, drawing included, for one number of rows. Finished rows are removed when half of them have
finished, which needs another graph. The number of active rows is read one check late, when it has reached the host
anyway.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.policies.sampling.fast_decoder import FastDecoder, KVCache
from rlalign.policies.sampling.fast_layer import StepAttention

CHECK_EVERY = 8
"""Tokens between two checks for finished rows, on a device where a check means waiting for it."""


class FixedBufferLoop:
    """Buffers for a number of rows and slots, and the graphs over them, for all rollouts that fit into them.

    Args:
        decoder: the optimized decoder.
        batch: its size is the number of places.
        slots: of a context: prompt and turn.
        device: CUDA for graphs; on another device the same steps run one by one.
        pool: memory pool of the graphs, of `torch.cuda.graph_pool_handle`. Graphs can share it, because a step leaves
            nothing in it: its results are written to the buffers.
    """

    def __init__(
        self, decoder: FastDecoder, batch: DecodeBatch, slots: int, device: torch.device, pool: Any = None
    ) -> None:
        size = len(batch.rows)
        self._decoder = decoder
        self._batch = batch
        self._slots = slots
        self._pool = pool
        self._keys, self._values = decoder.allocate(size, slots, device)
        self._mask = torch.zeros(size, slots, dtype=self._keys.dtype, device=device)
        self._next_tokens = torch.zeros(size, dtype=torch.int64, device=device)
        self._positions = torch.zeros(size, dtype=torch.int64, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        # pinned, so that the copy from the device does not block the host
        self._count = torch.zeros(1, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._count_copied: torch.cuda.Event | None = None
        self._captures = device.type == "cuda"
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}

    def run(
        self, cache: KVCache, logits: Tensor, repeats: Tensor, width: int, *, keep: bool
    ) -> list[tuple[Tensor, KVCache]]:
        """Generate up to `width` tokens per row, under the device of the buffers (`on_device`).

        Args:
            cache: the G contexts that have been read.
            logits: float32 [G, V] of the token after each context.
            repeats: int64 [n], the context of each row.
            width: tokens per row at most.
            keep: return the caches.

        Returns:
            Rows and their caches in the order of removal if `keep`.
        """
        caches: list[tuple[Tensor, KVCache]] = []
        # checked beforehand: the device is ahead of the host, so no step may fail
        self._decoder.check_length(cache.used + width - 1)
        self._load(cache, repeats)
        size = len(self._batch.rows)
        column = 1
        self._next_tokens[: len(repeats)] = self._batch.draw(logits[repeats])
        while column < width:
            for _ in range(min(CHECK_EVERY, width - column)):
                self._advance(size)
                column += 1
            active = self._active_count(size)
            if active == 0:
                break
            smaller = next_power_of_two(active)
            if smaller < size:
                order = self._batch.active[:size].long().argsort(descending=True, stable=True)
                if keep:
                    caches.append(self._take(order[smaller:], cache.used + column - 1))
                self._compact(order[:smaller])
                size = smaller
        if keep:
            caches.append(self._take(torch.arange(size, device=self._slot.device), cache.used + column - 1))
        return caches

    def _load(self, cache: KVCache, repeats: Tensor) -> None:
        """Copy the context of each row into the buffers; places without a row get a context of no token."""
        n, used = len(repeats), cache.used
        # layer by layer: a copy of all rows exists in the buffers, and of one layer beside them
        for keys, values, layer_keys, layer_values in zip(
            self._keys, self._values, cache.keys, cache.values, strict=True
        ):
            keys[:n, ..., :used] = layer_keys[..., :used].index_select(0, repeats)
            values[:n, :, :used] = layer_values[..., :used, :].index_select(0, repeats)
        # all slots are hidden at first: slots past `used` hold tokens of an earlier rollout
        self._mask.fill_(-torch.inf)
        self._mask[:n, :used] = 0.0 if cache.mask is None else cache.mask[repeats, :used]
        self._positions.zero_()
        self._positions[:n] = cache.positions[repeats]
        self._next_tokens.zero_()
        self._slot.fill_(used)
        self._count_copied = None

    def _step(self, size: int) -> None:
        """Generate one token for the first `size` places, in place."""
        mask = self._mask[:size]
        mask.index_fill_(1, self._slot, 0.0)
        attention = StepAttention(self._slot, self._slots, self._decoder.mask_of_heads(mask))
        keys, values = self._keys[:, :size], self._values[:, :size]
        hidden = self._decoder.step(self._next_tokens[:size], self._positions[:size], keys, values, attention)
        self._positions[:size] += 1
        self._slot += 1
        self._next_tokens[:size] = self._batch.draw(self._decoder.head(hidden).float())

    def _advance(self, size: int) -> None:
        """Run a step: the first one of a size directly, as a warm-up, later ones as its graph."""
        if size in self._graphs and self._captures and self._graphs[size] is None:
            graph = torch.cuda.CUDAGraph()
            try:
                # records the step without running it; the first graph is the largest, so the others fit into its memory
                with torch.cuda.graph(graph, pool=self._pool):
                    self._step(size)
                self._graphs[size] = graph
            except RuntimeError as error:
                self._captures = False
                warnings.warn(f"decoding without CUDA graphs, which is slower: {error}", stacklevel=2)
        captured = self._graphs.setdefault(size, None)
        if captured is None:
            self._step(size)
        else:
            captured.replay()

    def _active_count(self, size: int) -> int:
        """Return the number of active rows; on CUDA that of the previous check, which is never smaller."""
        count = self._batch.active[:size].sum()
        if self._slot.device.type != "cuda":
            return int(count)
        previous = size
        if self._count_copied is not None:
            self._count_copied.synchronize()  # completed long ago: CHECK_EVERY steps were queued since
            previous = int(self._count)
        self._count.copy_(count[None], non_blocking=True)
        self._count_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
        self._count_copied.record()
        return previous

    def _compact(self, places: Tensor) -> None:
        """Move the given places to the front."""
        self._batch.select(places)
        for buffer in (self._next_tokens, self._positions, self._mask, *self._keys, *self._values):
            buffer[: len(places)] = buffer[places]

    def _take(self, places: Tensor, used: int) -> tuple[Tensor, KVCache]:
        """Return the rows in the given places and a copy of their cache."""
        # without the mask: `FastDecoder.restore` finds the start of a context from its position
        cache = KVCache(self._keys, self._values, None, self._positions, used)
        return self._batch.rows[places], cache.take(places)


def next_power_of_two(count: int) -> int:
    """Return the least power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()


def buffer_rows(count: int) -> int:
    """Return the rows of the buffers for `count` rows: a power of two up to 32, else a multiple of 32."""
    return next_power_of_two(count) if count <= 32 else -(-count // 32) * 32


def buffer_slots(width: int, longest: int) -> tuple[int, int]:
    """Return width and slots of the buffers for turns of up to `width` tokens after contexts of up to `longest`.

    Both are rounded up, so that rollouts share the buffers.
    """
    width = -(-width // 64) * 64  # -(-a // b) * b rounds a up to a multiple of b
    return width, -(-(longest + width) // 128) * 128
