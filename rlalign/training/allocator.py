"""What the C library does with memory that PyTorch frees on a CPU.

PyTorch keeps no cache there: an update frees and allocates the same hundreds of megabytes again and again, glibc gives
them back to the system in between, and each page is then fetched, and zeroed, anew: 5 to 10 % of an update.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_AT_MOST = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for its next allocations; True where that could be said.

    Does nothing where the user chose thresholds (`MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`), or without glibc.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(name, _AT_MOST) for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
