"""`rlalign doctor`: what this machine and installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.table import Table

from rlalign.cli.console import console as make_console

_CORE = ("rlalign", "torch", "transformers", "gymnasium", "trl", "peft", "numpy", "wandb")
_EXTRAS = ("tensorboard",)


def run(args: Sequence[str]) -> int:
    """Print the report."""
    if args:
        print("rlalign doctor takes no arguments: it says what this machine and installation can do")
        return 0 if args[0] in ("-h", "--help") else 2
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in facts().items():
        table.add_row(name, value)
    make_console().print(table)
    return 0


def facts() -> dict[str, str]:
    """Name -> finding."""
    import torch

    from rlalign.assets import home
    from rlalign.policies.precision import compute_dtype

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    cache = home()
    disk = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists()))
    cached = sorted(p.name for p in cache.iterdir()) if cache.is_dir() else []
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _CORE},
        "extras": ", ".join(f"{name} {_version(name)}" for name in _EXTRAS),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "bf16": "used" if compute_dtype("auto", device) is torch.bfloat16 else "not used: slow on this machine",
        "cache": f"{cache} ({', '.join(cached) if cached else 'empty'})",
        "free disk": f"{disk.free / 2**30:.1f} GiB",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
