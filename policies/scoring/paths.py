"""The path of a model: how rows are scored, how contexts are decoded, how logits are computed from hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scoring = Literal["packed", "padded", "equal", "alone"]
Decoding = Literal["optimized", "padded", "equal", "reread"]
RowOperation = Literal["select", "reorder", "keep"]


@dataclass(frozen=True, slots=True)
class Paths:
    """The way through a model. `policies/path_check` proves that it returns the log-probs of plain rows.

    Attributes:
        scoring: layout of rows to be scored. packed: one row without padding, shared prefixes once; padded:
            right-padded rows; equal: rows of equal length together; alone: row by row.
        decoding: optimized: by `FastDecoder`; padded: contexts end at the same column of one cache, and a mask hides
            the padding; equal: a cache for the contexts of each length; reread: no cache, each step reads the complete
            contexts in the layout of `scoring`.
        rows: operation of the cache that takes rows. select: `batch_select_indices`; reorder: `reorder_cache`; keep:
            none, so that finished rows stay in the cache and their tokens are ignored.
        head: formula: scale, soft cap and weights of the head; model: the model's own forward pass behind its body.
        stock: use the modules of transformers and peft in place of the faster ones of this library.
        proven: number of tokens up to which `scoring` and `decoding` are proven. Longer rows are read as `equal`. None:
            the architecture has no threshold beyond it.
    """

    scoring: Scoring = "padded"
    decoding: Decoding = "padded"
    rows: RowOperation = "select"
    head: Literal["formula", "model"] = "formula"
    stock: bool = False
    proven: int | None = None
