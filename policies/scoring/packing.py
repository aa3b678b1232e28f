"""The packed layout: all rows of a batch in one row without padding, each shared prefix stored once.

The rows of a group begin with the same prompt. The packed row is a sequence of *segments*: each shared prefix once,
then the rest of each row. A token attends to the prefix that its segment continues and to the earlier tokens of its
segment, exactly as in a row of its own. Positions are explicit. The matrix products of a decoder then run over real
tokens only. Attention alone (`attention.py`) is computed segment by segment: segments of similar size form a bucket and
are padded to the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlalign.policies.device import on_device

_MIN_SAVED_SCORES = 1 << 15
"""Attention scores that one more bucket must save; below that its own operations cost more than it saves."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bucket:
    """n segments of similar size, padded to T queries and S keys.

    Attributes:
        queries: int64 [n, T], slots of the queries in the packed row; padding points at slot 0.
        keys: int64 [n, S], slots of the keys; padding points at slot 0.
        mask: float32 [n, T, S], added to the scores: -inf where a query may not attend to a key. None if the plain
            causal mask suffices.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> Bucket:
        """Return the bucket on a device."""
        mask = None if self.mask is None else to_device(self.mask, device)
        return Bucket(to_device(self.queries, device), to_device(self.keys, device), mask)


@dataclass(frozen=True, slots=True)
class Packing:
    """M tokens in one row.

    Attributes:
        ids: int64 [1, M], token ids.
        positions: int64 [1, M], position of each token in its original row.
        buckets: together they hold each token once as a query.
        output_index: int64 [M], index of each token among the flattened queries of all buckets.
    """

    ids: Tensor
    positions: Tensor
    buckets: tuple[Bucket, ...]
    output_index: Tensor

    def to(self, device: torch.device) -> Packing:
        """Return the packing on a device."""
        if device.type == "cpu":
            return self
        return Packing(
            to_device(self.ids, device),
            to_device(self.positions, device),
            tuple(bucket.to(device) for bucket in self.buckets),
            to_device(self.output_index, device),
        )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device. A copy from the CPU to CUDA does not make the host wait."""
    # only a copy from pinned memory can run while the host continues
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    with on_device(device):  # pinned memory belongs to the context of the current device
        return x.pin_memory().to(device, non_blocking=True)


def pack(tokens: Tensor, prefix_lengths: Tensor, ends: Tensor) -> tuple[Packing, Tensor]:
    """Build the packed layout of a batch.

    Args:
        tokens: int64 [N, L] on the CPU.
        prefix_lengths: int64 [N] on the CPU. Rows whose first `prefix_lengths` tokens are equal share them.
        ends: int64 [N] on the CPU; the columns before them are packed.

    Returns:
        The packing, and int64 [N, L] with the slot of each column in it (0 past the end).
    """
    table = tokens.numpy()
    stop = ends.numpy()
    prefix = np.minimum(prefix_lengths.numpy(), stop)
    # rows with equal prefixes get the same owner: the first of them, whose segment stands for all
    first_row: dict[bytes, int] = {}
    contents = [row[:n].tobytes() for row, n in zip(table, prefix.tolist(), strict=True)]
    owner = np.array([first_row.setdefault(content, i) for i, content in enumerate(contents)])
    unshared = np.bincount(owner, minlength=len(owner))[owner] == 1
    prefix[unshared] = 0  # a prefix of one row needs no segment of its own
    # segments: the prefixes (columns 0 to prefix of their owners), then the rest of each row
    prefix_rows = np.unique(owner[prefix > 0])
    rest_rows = np.flatnonzero(stop > prefix)
    rows = np.concatenate([prefix_rows, rest_rows])
    low = np.concatenate([np.zeros_like(prefix_rows), prefix[rest_rows]])
    high = np.concatenate([prefix[prefix_rows], stop[rest_rows]])
    size = high - low
    offset = np.cumsum(size) - size  # first slot of each segment
    count = int(size.sum())
    segment = np.repeat(np.arange(len(rows)), size)  # segment of each slot
    column = np.arange(count) - offset[segment] + low[segment]  # column of each slot in its row
    slots = np.zeros(table.shape, np.int64)
    slots[rows[segment], column] = np.arange(count)
    in_prefix = np.arange(table.shape[1]) < prefix[:, None]
    slots = np.where(in_prefix, slots[owner], slots)
    buckets: list[Bucket] = []
    output_index = np.zeros(count, np.int64)
    queries_before = 0
    for members in _split_by_size(size, high):
        bucket = _bucket(slots, rows[members], low[members], high[members])
        real = np.arange(bucket.queries.shape[1]) < size[members][:, None]
        output_index[bucket.queries.numpy()[real]] = queries_before + np.flatnonzero(real)
        queries_before += real.size
        buckets.append(bucket)
    ids = torch.from_numpy(table[rows[segment], column])[None]
    packing = Packing(ids, torch.from_numpy(column)[None], tuple(buckets), torch.from_numpy(output_index))
    return packing, torch.from_numpy(slots)


def behind_cache(packing: Packing, count: int) -> Packing:
    """Return a packing whose keys stand behind `count` slots of a cache, which each token attends to."""
    return replace(packing, buckets=tuple(_behind_cache(bucket, count) for bucket in packing.buckets))


def _behind_cache(bucket: Bucket, count: int) -> Bucket:
    n, t = bucket.queries.shape
    s = bucket.keys.shape[1]
    mask = bucket.mask
    if mask is None:  # queries and keys are the same columns
        mask = torch.full((t, s), -torch.inf).triu_(1).expand(n, t, s)
    keys = torch.cat([torch.arange(count).expand(n, count), bucket.keys + count], dim=1)
    return Bucket(bucket.queries, keys, torch.cat([torch.zeros(n, t, count), mask], dim=2))


def _split_by_size(queries: Ints, keys: Ints) -> list[Ints]:
    """Return the indices of the segments in parts that need few padded scores: n · max queries · max keys each.

    Args:
        queries: number of queries of each segment.
        keys: number of keys of each segment.
    """
    # along this order similar sizes are neighbors, so that only cuts of it need to be tried
    order = np.lexsort((queries, keys))

    def split(part: Ints) -> list[Ints]:
        q = queries[part]
        k = keys[part]
        n = np.arange(1, len(part))  # segments to the left of each possible cut
        total = len(part) * int(q.max()) * int(k.max())
        # the maxima of both sides for all cuts at once: running maxima from the left and from the right
        left = n * np.maximum.accumulate(q)[:-1] * np.maximum.accumulate(k)[:-1]
        right = n[::-1] * np.maximum.accumulate(q[::-1])[::-1][1:] * np.maximum.accumulate(k[::-1])[::-1][1:]
        saved = total - left - right
        if len(part) == 1 or saved.max() < max(_MIN_SAVED_SCORES, total // 8):
            return [part]
        cut = int(saved.argmax()) + 1
        return split(part[:cut]) + split(part[cut:])

    return split(order)


def _bucket(slots: Ints, rows: Ints, low: Ints, high: Ints) -> Bucket:
    """Return the bucket of segments whose queries are columns low to high of the rows, and whose keys 0 to high."""
    t = int((high - low).max())
    s = int(high.max())
    query_column = low[:, None] + np.arange(t)
    inside = query_column < high[:, None]
    # column 0 in place of columns past the end keeps take_along_axis in range
    queries = np.where(inside, np.take_along_axis(slots[rows], np.where(inside, query_column, 0), 1), 0)
    keys = np.where(np.arange(s) < high[:, None], slots[rows, :s], 0)
    mask = None
    if low.any():  # else query t is column t, and the causal mask alone hides both the future and the padding
        visible = torch.from_numpy(np.arange(s) <= query_column[:, :, None])
        mask = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)
    return Bucket(torch.from_numpy(queries), torch.from_numpy(keys), mask)
