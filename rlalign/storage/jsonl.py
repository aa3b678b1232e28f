"""JSON Lines files of a run, metrics.jsonl and samples.jsonl: append, cut back to a checkpoint, read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError


class JsonLines:
    """An append-only JSONL file that is cut back to a given length when it is opened.

    A resumed run cuts the file back to its length at the checkpoint, so that it writes no line twice. The sha256 of all
    bytes up to there is compared with the checkpoint's, so that an edited line is found.

    Args:
        path: the file; it is created if it does not exist.
        start: length in bytes to which the file is cut back.
        digest: sha256 of these bytes; None: not known (of a run before digests were stored).
        lenient: accept a file that is shorter than `start`, or whose content is not that of `digest`.

    Attributes:
        path: the file.
        length: bytes of the lines that were written whole.

    Raises:
        FaultError: if the file does not fit and `lenient` is false, or cannot be opened.
    """

    def __init__(self, path: Path, start: int = 0, digest: str | None = None, *, lenient: bool = False) -> None:
        self.path = path
        size = path.stat().st_size if path.is_file() else 0
        if size < start and not lenient:
            raise FaultError(
                f"'{path}': expected {start} bytes or more, as at the checkpoint, got {size}; restore the file, "
                "or use --allow-change to resume without the missing lines"
            )
        self.length = min(start, size)
        try:
            self._digest = _hash_start(path, self.length)
            if digest is not None and self._digest.hexdigest() != digest and not lenient:
                raise FaultError(
                    f"'{path}': expected the {start} bytes that the run wrote up to the checkpoint (sha256 "
                    f"{digest[:12]}...), got others ({self._digest.hexdigest()[:12]}...): a line was changed; restore "
                    "the file, or use --allow-change to continue it as it is"
                )
            # unbuffered: a write that fails for lack of space leaves nothing behind that a later write would repeat
            self._file = path.open("ab", buffering=0)
            self._file.truncate(self.length)
        except OSError as error:
            raise FaultError(f"'{path}' cannot be opened ({error.strerror}); make it writable, then resume") from error

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per row, with null for NaN and infinities: all of them or none.

        Raises:
            FaultError: if the file cannot be written, for example because the disk is full.
        """
        lines = b"".join(_line(row) for row in rows)
        try:
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) or 0 :]
        except BaseException as error:
            self.cut(self.length, self._digest)
            if isinstance(error, OSError):
                raise FaultError(
                    f"'{self.path}' cannot be written ({error.strerror}); free disk space, then resume the run"
                ) from error
            raise
        self.length += len(lines)
        self._digest.update(lines)

    def mark(self) -> tuple[int, Any]:
        """Return the present end of the file, for `cut`."""
        return self.length, self._digest.copy()

    def cut(self, length: int, digest: Any) -> None:
        """Cut the file back to an end that `mark` returned."""
        with contextlib.suppress(OSError):  # on resuming, the file is cut back once more
            self._file.truncate(length)
        self.length = length
        self._digest = digest

    @property
    def digest(self) -> str:
        """The sha256 of the bytes up to `length`."""
        return str(self._digest.hexdigest())

    def sync(self) -> None:
        """Write the file through to the disk. Raises FaultError when the disk refuses."""
        try:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                if error.errno != errno.EBADF:  # a disk reports its error only once, so it must not be tried again
                    raise
                with self.path.open("ab") as file:  # a reward in this process has closed the descriptor
                    os.fsync(file.fileno())
        except OSError as error:
            raise FaultError(f"'{self.path}' cannot be written ({error.strerror}); free disk space") from error

    def close(self) -> None:
        """Close the file, whose descriptor a reward in this process may have closed."""
        with contextlib.suppress(OSError):
            self._file.close()


def _line(row: Mapping[str, Any]) -> bytes:
    # A lone surrogate has no UTF-8; as \\udXXX it is JSON, and reads back as what it was.
    text = json.dumps(nullable(row), ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(nullable(row)).encode() + b"\n"


def _hash_start(path: Path, length: int) -> Any:
    """Return the sha256 object of the first `length` bytes of a file."""
    digest = hashlib.sha256()
    if not length:
        return digest
    with path.open("rb") as file:
        while length and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run folder's metrics.jsonl, without a last line that a crash cut short.

    Raises:
        FaultError: names the line that is not UTF-8, not JSON or not an object.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, got {type(row).__name__}")
            rows.append(row)
        except ValueError as error:
            if number == len(lines):  # the end of the file, after the last newline
                break
            raise FaultError(
                f"'{path}' line {number} is damaged ({error}); restore the file, or delete the line"
            ) from error
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


def json_value(value: Any) -> Any:
    """Return a JSON value for any object: arrays as lists, other objects as the first 200 characters of their repr."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    # numpy's numbers and arrays, and tensors
    return json_value(value.tolist()) if hasattr(value, "tolist") else repr(value)[:200]
