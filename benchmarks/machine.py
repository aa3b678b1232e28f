"""Description of the machine for the files in benchmarks/results/, clocks, and the files themselves."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from rlalign.storage.checkpoint import versions

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return processor, cores, device, Python, package versions, commit and load."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit.stdout.strip(),
        "load": os.getloadavg()[0],
    }


def described(stored: dict[str, Any]) -> str:
    """Return what `machine` stored in a file of results, as the pages name it."""
    threads = f"{stored['torch_threads']} thread{'s' if stored['torch_threads'] > 1 else ''}"
    torch_version = stored["versions"]["torch"]
    return f"{stored['cpu']}, {stored['cores']} cores, {threads}, Python {stored['python']}, torch {torch_version}"


def write(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1, ensure_ascii=False) + "\n")
    return path


def clock(device: str, kind: str = "wall") -> float:
    """Return the time in seconds.

    Args:
        device: a CUDA device is synchronized first.
        kind: "wall", or "cpu" for processor time, on which other work on the machine has little effect (one thread).
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return time.process_time() if kind == "cpu" else time.perf_counter()


def memory() -> str:
    """Return what glibc does with freed memory: "kept" if environment variables set both thresholds to their maximum,
    else "as it comes" (the default). Raises SystemExit for any other setting."""
    settings = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    if not settings:
        return "as it comes"
    if settings == dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str((1 << 31) - 1)):
        return "kept"
    raise SystemExit(
        f"expected MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at {(1 << 31) - 1} or not set, got {settings}; "
        "use one of both"
    )


def merge(name: str, cells: list[dict[str, Any]], *, key: tuple[str, ...]) -> Path:
    """Write cells to benchmarks/results/NAME.json, each with its commit and load.

    Args:
        name: of the file.
        cells: the new cells.
        key: fields that identify a cell; a new cell replaces the stored one with the same values.
    """
    path = RESULTS / f"{name}.json"
    current = machine()
    new = [{**cell, "commit": current["commit"], "load": current["load"]} for cell in cells]
    replaced = {tuple(cell[k] for k in key) for cell in new}
    old = json.loads(path.read_text())["cells"] if path.is_file() else []
    return write(name, {"cells": [c for c in old if tuple(c[k] for k in key) not in replaced] + new})


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
