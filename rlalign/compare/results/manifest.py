"""Provenance of a study's results: command, versions, machine, commit, and a fingerprint of all settings."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rlalign.compare.cell_settings import settings_of
from rlalign.compare.results.schema import Manifest
from rlalign.compare.study import Cell

_SOURCES = ("rlalign", "envs", "policies", "rewards")  # folders at the root of the repository


def manifest(command: str, cells: Sequence[Cell], seconds: float) -> Manifest:
    """Return the manifest of a study that is analyzed now on this machine.

    Args:
        command: the command line.
        cells: all cells.
        seconds: computing time of all cells together.
    """
    from rlalign.storage.checkpoint import versions

    policies = dict.fromkeys(cell.config.policy for cell in cells)
    return Manifest(
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        policy=", ".join(policies),
        versions=versions(),
        machine=machine(),
        commit=commit(),
        fingerprint=fingerprint(cells),
        seconds=seconds,
    )


def fingerprint(cells: Sequence[Cell]) -> str:
    """Return the sha256 of each cell's environment, algorithm, seed and settings, sorted by cell name."""
    question = [
        [cell.config.env, cell.config.algorithm, cell.seed, settings_of(cell.config)]
        for cell in sorted(cells, key=lambda cell: cell.name)
    ]
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, str]:
    """Return processor, cores, device, Python version and operating system."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "system": platform.system(),
    }


def commit() -> str | None:
    """Return the commit of the running source, with + if it was changed since; None for an installed package."""
    root = Path(__file__).parents[3]
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
