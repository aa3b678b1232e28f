"""The prompts on which a reward model was trained, as digests, so that an evaluation names data that it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlalign.rewards.text import text_of

FILE = "training_prompts.list"
_DIGITS = 16
"""Hexadecimal digits of a digest: 64 bits, so that two of a million prompts collide with probability 3e-8."""


def write_prompts(folder: Path, rows: Iterable[Any]) -> None:
    """Write the digests of the prompts of pairs or ratings, one per line, sorted."""
    digests = sorted({_digest(row) for row in rows})
    (folder / FILE).write_text("".join(f"{digest}\n" for digest in digests), encoding="ascii")


def count_seen(folder: Path, rows: Sequence[Any]) -> int | None:
    """Return the number of rows whose prompt was in training; None if the folder does not say it."""
    try:
        seen = set((folder / FILE).read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return sum(_digest(row) in seen for row in rows)


def _digest(row: Any) -> str:
    """Return the digest of a prompt without case and without differences of white space."""
    sample = row.chosen if hasattr(row, "chosen") else row.sample
    text = " ".join(text_of(sample.prompt).casefold().split())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
