"""`rlalign doctor`: what this machine and installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from rlalign.cli.console import console as make_console
from rlalign.errors import UserError

_OF_DEVELOPERS = ("test", "dev")
_CORE = ("rlalign", "torch", "transformers", "gymnasium", "trl", "peft", "numpy", "wandb")


def run(args: Sequence[str]) -> int:
    """Print the report."""
    if args and args[0] in ("-h", "--help"):
        print("rlalign doctor takes no arguments: it says what this machine and installation can do")
        return 0
    if args:
        raise UserError(f"rlalign doctor takes no arguments: leave out {' '.join(args)}")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in facts().items():
        table.add_row(name, escape(value))
    make_console().print(table)
    return 0


def facts() -> dict[str, str]:
    """Name -> finding."""
    import torch

    from rlalign.assets import home
    from rlalign.policies.device import compute_dtype

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    cache = home()
    disk = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists()))
    cached = sorted(p.name for p in cache.iterdir()) if cache.is_dir() else []
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _CORE},
        **{f"extra {name}": said for name, said in _extras().items()},
        "device": torch.cuda.get_device_name()
        if cuda
        else f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "bf16": "used" if compute_dtype("auto", device) is torch.bfloat16 else "not used: slow on this machine",
        "cache": f"{cache} ({', '.join(cached) if cached else 'empty'})",
        "free disk": f"{disk.free / 2**30:.1f} GiB",
    }


def _extras() -> dict[str, str]:
    """Extra -> whether it is complete, as the installed package's own metadata has it."""
    found: dict[str, str] = {}
    if _version("rlalign") == "not installed":  # a source tree on the path
        return found
    required = [Requirement(text) for text in requires("rlalign") or ()]
    for extra in metadata("rlalign").get_all("Provides-Extra") or ():
        if extra in _OF_DEVELOPERS:
            continue
        of_it = [r for r in required if r.marker and "extra" in str(r.marker) and r.marker.evaluate({"extra": extra})]
        missing = [r.name for r in of_it if not _has(r)]
        found[extra] = f"pip install 'rlalign[{extra}]' brings {', '.join(missing)}" if missing else "complete"
    return found


def _has(required: Requirement) -> bool:
    try:
        return required.specifier.contains(version(required.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
