"""JSON Lines files of a run, metrics.jsonl and samples.jsonl: append, cut back to a checkpoint, read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError


class JsonLines:
    """An append-only JSONL file that is cut back to a given length when it is opened.

    A resumed run cuts the file back to its length at the checkpoint, so that it writes no line twice.

    Args:
        path: the file; it is created if it does not exist.
        start: length in bytes to which the file is cut back.
        lenient: accept a file that is shorter than `start`.

    Raises:
        FaultError: if the file is shorter than `start` and `lenient` is false.
    """

    def __init__(self, path: Path, start: int = 0, *, lenient: bool = False) -> None:
        self.path = path
        size = path.stat().st_size if path.is_file() else 0
        if size < start and not lenient:
            raise FaultError(
                f"'{path}': expected {start} bytes or more, as at the checkpoint, got {size}; restore the file, "
                "or use --allow-change to resume without the missing lines"
            )
        self._file = path.open("ab")
        self._file.truncate(min(start, size))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per row, with null for NaN and infinities.

        Raises:
            FaultError: if the file cannot be written, for example because the disk is full.
        """
        try:
            for row in rows:
                self._file.write(json.dumps(nullable(row), ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise FaultError(
                f"'{self.path}' cannot be written ({error.strerror}): free disk space, then use rlalign train --resume "
                f"{self.path.parent}"
            ) from error

    def tell(self) -> int:
        """Flush the file to the disk and return its length in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run folder's metrics.jsonl, without a last line that a crash cut short."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def nullable(value: Any) -> Any:
    """Return a JSON value with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: nullable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nullable(item) for item in value]
    return value
