"""The permissions of files that libraries write for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path


def apply_umask(folder: Path) -> None:
    """Give the safetensors files below a folder the permissions that a new file has there.

    safetensors writes them for the owner alone (0600), so that no other user of the machine could load them beside
    their configuration.

    Args:
        folder: of a model; files in folders below it too.
    """
    probe = folder / f".mode-{os.getpid()}"
    try:
        probe.touch()  # 0666 without the bits of the umask, which cannot be read without setting it for all threads
        mode = probe.stat().st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)
    for path in folder.rglob("*.safetensors"):
        if not path.is_symlink():
            path.chmod(mode)
