"""Rows as one row without pads, each shared beginning once, and the attention that keeps them apart.

The rows of a group begin with the same prompt. Their layout here is a single sequence of *segments*: every shared
beginning once, then what is left of each row. A segment's tokens see the beginning that it continues and those of their
own before them, which is exactly what they would see in a row of their own; positions say where they stand in it. All
products of a decoder then run over real tokens only. Attention alone is computed segment by segment: segments of like
size together, padded to the longest of them.

Any transformers decoder that takes its attention from the `AttentionInterface` and hands on what it does not know can
read this layout (`Backbone` tries it when it is made).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "rlalign_packed"
"""Our attention's name in transformers' registry; without a packing it is transformers' own `sdpa`."""
_WORTH = 1 << 15
"""Score entries that a further bucket must save: less than that, and its own operations cost more."""
_PLAIN_BYTES = {torch.float32: 1 << 25, torch.bfloat16: 1 << 26}
"""Scores up to which the plain formula is the faster one on a CPU."""
_HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states"}
"""What a layer may be told beside its input: in packed rows it changes nothing."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bucket:
    """n segments of like size: where their T queries and S keys stand, pads pointing at slot 0.

    `hidden` is float32 [n, T, S], -inf where a query does not see a key; None when all that is hidden is the future.
    """

    queries: Tensor
    keys: Tensor
    hidden: Tensor | None

    def to(self, device: torch.device) -> Bucket:
        """The same on a device."""
        hidden = None if self.hidden is None else to_device(self.hidden, device)
        return Bucket(to_device(self.queries, device), to_device(self.keys, device), hidden)


@dataclass(frozen=True, slots=True)
class Packing:
    """M tokens in one row.

    Attributes:
        ids, positions: int64 [1, M].
        buckets: together they hold every token once as a query.
        back: int64 [M], where each token stands among the buckets' flattened queries.
    """

    ids: Tensor
    positions: Tensor
    buckets: tuple[Bucket, ...]
    back: Tensor

    def to(self, device: torch.device) -> Packing:
        """The same on a device."""
        if device.type == "cpu":
            return self
        return Packing(
            to_device(self.ids, device),
            to_device(self.positions, device),
            tuple(b.to(device) for b in self.buckets),
            to_device(self.back, device),
        )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for it where it comes from the CPU."""
    pinned = device.type == "cuda" and x.device.type == "cpu"
    return x.pin_memory().to(device, non_blocking=True) if pinned else x.to(device)


def pack(tokens: Tensor, shared: Tensor, ends: Tensor) -> tuple[Packing, Tensor]:
    """Pack the columns before `ends` [N] of rows [N, L], all on the CPU; equal beginnings of `shared` [N] columns once.

    Returns the packing and int64 [N, L], the slot of each column (0 past the end).
    """
    table, cut, stop = tokens.numpy(), shared.numpy().copy(), ends.numpy()
    cut = np.minimum(cut, stop)
    keys = [row[:n].tobytes() for row, n in zip(table, cut.tolist(), strict=True)]
    first: dict[bytes, int] = {}
    owner = np.array([first.setdefault(key, i) for i, key in enumerate(keys)])  # the row whose beginning stands for all
    alone = np.bincount(owner, minlength=len(owner))[owner] == 1
    cut[alone] = 0
    heads = np.unique(owner[cut > 0])
    tails = np.flatnonzero(stop > cut)
    rows = np.concatenate([heads, tails])
    low = np.concatenate([np.zeros_like(heads), cut[tails]])
    high = np.concatenate([cut[heads], stop[tails]])
    size = high - low
    start = np.cumsum(size) - size  # first slot of each segment
    count = int(size.sum())
    where = np.repeat(np.arange(len(rows)), size)
    column = np.arange(count) - start[where] + low[where]
    slots = np.zeros(table.shape, np.int64)
    slots[rows[where], column] = np.arange(count)
    beginning = np.arange(table.shape[1]) < cut[:, None]
    slots = np.where(beginning, slots[owner], slots)
    buckets, back, at = [], np.zeros(count, np.int64), 0
    for chosen in _alike(size, high):
        bucket = _bucket(slots, rows[chosen], low[chosen], high[chosen])
        real = np.arange(bucket.queries.shape[1]) < size[chosen][:, None]
        back[bucket.queries.numpy()[real]] = at + np.flatnonzero(real)
        at += real.size
        buckets.append(bucket)
    ids = torch.from_numpy(table[rows[where], column])[None]
    packing = Packing(ids, torch.from_numpy(column)[None], tuple(buckets), torch.from_numpy(back))
    return packing, torch.from_numpy(slots)


def _alike(queries: Ints, keys: Ints) -> list[Ints]:
    """Segments in parts whose padded scores, n · max queries · max keys, are few; a cut must be worth its trouble."""
    order = np.lexsort((queries, keys))

    def cut(part: Ints) -> list[Ints]:
        q, k = queries[part], keys[part]
        n = np.arange(1, len(part))
        whole = len(part) * int(q.max()) * int(k.max())
        left = n * np.maximum.accumulate(q)[:-1] * np.maximum.accumulate(k)[:-1]
        right = n[::-1] * np.maximum.accumulate(q[::-1])[::-1][1:] * np.maximum.accumulate(k[::-1])[::-1][1:]
        saved = whole - left - right
        if len(part) == 1 or saved.max() < max(_WORTH, whole // 8):
            return [part]
        at = int(saved.argmax()) + 1
        return cut(part[:at]) + cut(part[at:])

    return cut(order)


def _bucket(slots: Ints, rows: Ints, low: Ints, high: Ints) -> Bucket:
    """Queries are the columns from low to high of the rows, keys those from 0 to high."""
    t, s = int((high - low).max()), int(high.max())
    query_column = low[:, None] + np.arange(t)
    inside = query_column < high[:, None]
    queries = np.where(inside, np.take_along_axis(slots[rows], np.where(inside, query_column, 0), 1), 0)
    keys = np.where(np.arange(s) < high[:, None], slots[rows, :s], 0)
    hidden = None
    if low.any():
        past = torch.from_numpy(np.arange(s) <= query_column[:, :, None])
        hidden = torch.zeros(past.shape).masked_fill_(~past, -torch.inf)
    return Bucket(torch.from_numpy(queries), torch.from_numpy(keys), hidden)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [1, H, M, e], key and value [1, K, M, e] -> [1, M, H, e].

    Raises NotImplementedError for anything that a layer asks beyond softmax(scaling · q kᵀ) v over what is before.
    """
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        given = {**others, "scaling": scaling}
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **given)
        return out, None
    odd = unsupported_arguments(others)
    if odd or len(query) != 1:
        raise NotImplementedError(f"packed attention with {', '.join(odd) or 'several rows'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attended(q, k, v, packing, scale)[None], None


def unsupported_arguments(told: Mapping[str, Any]) -> list[str]:
    """Names of what a layer is told that packed attention would have to know of."""
    return [name for name, setting in told.items() if setting is not None and name not in _HARMLESS]


def attended(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) v over what each token sees: q [M, H, e], k and v [M, K, e] -> [M, H, e]."""
    parts = [_attend(q, k, v, bucket, scale) for bucket in packing.buckets]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, packing.back)


def _attend(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Outputs [n · T, H, e] of a bucket."""
    (n, t), s = bucket.queries.shape, bucket.keys.shape[1]
    heads, shared = q.shape[1], k.shape[1]
    group = heads // shared
    # the queries that share a key stand as further positions of one head, so that no key is repeated
    q = q.index_select(0, bucket.queries.flatten()).view(n, t, shared, group, -1).permute(0, 2, 3, 1, 4)
    k, v = (x.index_select(0, bucket.keys.flatten()).view(n, s, shared, -1).transpose(1, 2) for x in (k, v))
    if q.device.type == "cpu" and 4 * n * heads * t * s <= _PLAIN_BYTES.get(_product_dtype(q), 0):
        out = _plain(q, k, v, bucket.hidden, scale)
    else:
        q = q.flatten(1, 2)
        k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (k, v))
        mask = None if bucket.hidden is None else bucket.hidden.to(q.dtype)[:, None]
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.reshape(n, heads, t, -1).transpose(1, 2).reshape(n * t, heads, -1)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The format in which a product of x is formed: autocast may choose another than that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _plain(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    n, shared, group, t, e = q.shape
    s = k.shape[2]
    if hidden is None:
        hidden = torch.full((t, s), -torch.inf).triu_(1)[None]
    scores = (q * scale).reshape(n * shared, group * t, e) @ k.reshape(n * shared, s, e).transpose(1, 2)
    # a constant: autograd need not know of it, and would copy all scores for each change of a view
    scores.detach().view(n, shared, group, t, s).add_(hidden[:, None, None])
    return scores.softmax(-1) @ v.reshape(n * shared, s, -1)


def register() -> None:
    """Make our attention known to transformers under `NAME`; masks stay those of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
