"""The mark of a run folder that this user's programs wrote: a keyed digest of its config.json and of code in it.

Where this user can keep no key, as with a read-only home directory, no folder has a mark. There the owner and the
permissions of the files decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

from rlalign.assets import home
from rlalign.errors import FaultError
from rlalign.storage.atomic import write_atomic

_MARK = "run.mark"
_KEY = "run.key"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def mark_run(folder: Path, code: Iterable[Path] = ()) -> None:
    """Mark the config.json of a run folder as written by this user; warn once if that is not possible.

    Args:
        folder: the run folder.
        code: the files that its configuration runs. The mark covers those below the folder, which travel with it.
    """
    try:
        key = _key()
    except OSError as error:
        warnings.warn(
            f"'{home()}' cannot be written ({error.strerror}), so run folders get no mark of their owner; set "
            "RLALIGN_HOME to a folder of your own",
            stacklevel=2,
        )
        with contextlib.suppress(OSError):  # of another key: it would make the folder somebody else's
            (folder / _MARK).unlink()
        return
    with contextlib.suppress(OSError, FaultError):
        write_atomic(folder / _MARK, _mark_of(folder, key, code) + "\n")


def is_own(folder: Path, code: Iterable[Path] = ()) -> bool:
    """Return whether this user's programs wrote the config.json of a run folder as it is, with the code below it.

    Args:
        folder: the run folder.
        code: as for `mark_run`.
    """
    code = list(code)
    try:
        key = _key()
    except OSError:
        paths = (folder, folder / "config.json", *_inside(folder, code))
        return not (folder / _MARK).exists() and all(_is_private(path) for path in paths)
    try:
        mark = (folder / _MARK).read_bytes().strip()
        return hmac.compare_digest(mark, _mark_of(folder, key, code).encode())
    except OSError:
        return False


def _is_private(path: Path) -> bool:
    """Return whether a path belongs to this user, and only this user can write it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & _WRITABLE_BY_OTHERS


def _mark_of(folder: Path, key: bytes, code: Iterable[Path]) -> str:
    mark = hmac.new(key, (folder / "config.json").read_bytes(), hashlib.sha256)
    for path in _inside(folder, code):
        mark.update(f"\n{path.relative_to(folder.resolve())} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return mark.hexdigest()


def _inside(folder: Path, code: Iterable[Path]) -> list[Path]:
    """Return the resolved paths of the files that lie below a folder, sorted."""
    paths = {path.resolve() for path in code}
    return sorted(path for path in paths if path.is_relative_to(folder.resolve()))


def _key() -> bytes:
    """Return the key in this user's cache; create it if it does not exist. Raises OSError if neither is possible."""
    path = home() / _KEY
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # written whole under another name first: a second process never reads half of it
        partial = path.with_name(f"{_KEY}.{os.getpid()}")
        try:
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode())
            _link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path.read_bytes()


def _link(partial: Path, path: Path) -> None:
    """Give a file its name unless another process was first."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.is_file():
            os.replace(partial, path)
