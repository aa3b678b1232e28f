"""The C library's memory allocator during training on a CPU.

PyTorch has no caching allocator for CPU memory. An update frees and allocates the same hundreds of megabytes
repeatedly; glibc returns them to the system in between, and the kernel zeroes each page again: 5 to 10 % of an update.
"""

from __future__ import annotations

import ctypes
import os

# Parameter numbers of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_THRESHOLD = (1 << 31) - 1  # mallopt takes a C int


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the process's next allocations; return whether that succeeded.

    Does nothing where the user chose thresholds (`MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`), or without glibc.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all(mallopt(name, _LARGEST_THRESHOLD) for name in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
