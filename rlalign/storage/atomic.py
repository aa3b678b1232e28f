"""Files that are there whole or not at all, and JSON that is there or named."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, UserError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file so that a kill or a full disk leaves the old file or the new one; return its path.

    Raises FaultError naming the file when it cannot be written.
    """
    tmp = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tmp.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # or the name may reach the disk before the content does
        os.replace(tmp, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            tmp.unlink(missing_ok=True)
        raise FaultError(
            f"'{path}' cannot be written ({error.strerror}): make room, then the same command goes on"
        ) from error
    return path


def read_json(path: Path, fix: str) -> Any:
    """What a JSON file holds. Raises UserError that names the file and the fix where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}): {fix}") from error
    except ValueError as error:  # json's, or a text that is no UTF-8
        raise UserError(f"'{path}' is damaged ({error}): {fix}") from error
