"""Number of runs that this machine can execute at once, from its cores and its free memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GIB = 2**30
_BYTES_FROM_SCRATCH = 0.75 * _GIB  # memory of one run with a policy trained from scratch
_BYTES_PRETRAINED = 6 * _GIB  # memory of one run with a pretrained policy


def capacity(scratch: bool) -> int:
    """Return how many runs this machine holds at once: one per core with enough memory, one on a machine with a GPU.

    Args:
        scratch: the policy is trained from scratch.
    """
    import torch

    if torch.cuda.is_available():
        return 1
    run_bytes = _BYTES_FROM_SCRATCH if scratch else _BYTES_PRETRAINED
    return int(max(1, min(usable_cores(), _free_bytes() // run_bytes)))


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return the cores that this process may use: its CPU affinity, or the container's quota if that is less.

    Args:
        quota: cgroup file with `QUOTA PERIOD` in microseconds; QUOTA is `max` without a limit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not quota.is_file():
        return cores
    limit, _, period = quota.read_text().partition(" ")
    return cores if limit == "max" else min(cores, int(limit) / int(period))


def _free_bytes() -> float:
    """Return the free memory in bytes, as far as Linux and the container's limit state it; else infinity."""
    free = math.inf
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024  # the file states KiB
    limit_file = Path("/sys/fs/cgroup/memory.max")
    usage_file = Path("/sys/fs/cgroup/memory.current")
    if limit_file.is_file() and usage_file.is_file():
        limit = limit_file.read_text().strip()
        if limit != "max":
            free = min(free, float(limit) - float(usage_file.read_text()))
    return free
