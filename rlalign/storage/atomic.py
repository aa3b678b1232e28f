"""Atomic writes, and JSON reads whose errors name the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename what the block writes there to `path`.

    A kill or a full disk leaves the old file or the new one; an error of the block leaves the old one. A folder that
    exists is deleted just before the rename, which is not atomic.

    Args:
        path: the file or the folder to write; missing folders above it are made.

    Raises:
        FaultError: names the file when it cannot be written.
    """
    tmp = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tmp.is_dir():  # of a process that was killed
            shutil.rmtree(tmp)
        yield tmp
        if tmp.is_dir():
            if path.is_dir():
                shutil.rmtree(path)
        else:
            with tmp.open("rb+") as file:
                os.fsync(file.fileno())  # without it the rename can reach the disk before the content
        os.replace(tmp, path)
    except OSError as error:
        raise FaultError(
            f"'{path}' cannot be written ({error.strerror or error}); free space or make the folder writable, then run "
            "the same command again"
        ) from error
    finally:
        with suppress(OSError):  # the folder itself may be missing or read-only
            shutil.rmtree(tmp) if tmp.is_dir() else tmp.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write a file atomically (`replacing`) and return its path.

    Raises:
        FaultError: names the file when it cannot be written.
    """
    with replacing(path) as tmp:
        tmp.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_json(path: Path, fix: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: names the file and the fix when it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); {fix}") from error
    except ValueError as error:  # of json, or of a file that is not UTF-8
        raise UserError(f"'{path}' is damaged ({error}); {fix}") from error
