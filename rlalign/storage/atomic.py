"""Atomic writes, and JSON reads whose errors name the file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, UserError


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write a file atomically and return its path: a kill or a full disk leaves the old file or the new one.

    Raises:
        FaultError: names the file when it cannot be written.
    """
    tmp = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tmp.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # without it the rename can reach the disk before the content
        os.replace(tmp, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be missing or read-only
            tmp.unlink(missing_ok=True)
        raise FaultError(
            f"'{path}' cannot be written ({error.strerror}); free space or make the folder writable, then run the "
            "same command again"
        ) from error
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
