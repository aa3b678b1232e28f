"""`rlalign doctor`: versions, optional packages, device, cache and disk space of this installation."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from rich.table import Table

from rlalign.cli.console import console as make_console
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text

_DEVELOPMENT_EXTRAS = ("test", "docs", "dev")  # not shown
_CORE_PACKAGES = ("rlalign", "torch", "transformers", "gymnasium", "trl", "peft", "numpy", "wandb")


def run(args: Sequence[str]) -> int:
    """Print the table of facts; return 0."""
    if args and args[0] in ("-h", "--help"):
        print_text(
            "rlalign doctor prints the versions, optional packages, device, cache and disk space of this installation. "
            "It takes no arguments."
        )
        return 0
    if args:
        raise UserError(f"rlalign doctor takes no arguments: leave out {' '.join(args)}")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in facts().items():
        table.add_row(name, value)
    make_console().print(table)
    return 0


def facts() -> dict[str, str]:
    """Return name -> value of each fact about the machine and the installation."""
    import torch

    from rlalign.assets import home
    from rlalign.policies.device import compute_dtype

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        device_text = torch.cuda.get_device_name()
    else:
        device_text = f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    cache = home()
    # The cache folder may not exist yet; its nearest existing parent is on the same disk.
    disk = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists()))
    cached = sorted(p.name for p in cache.iterdir()) if cache.is_dir() else []
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _CORE_PACKAGES},
        **{f"extra {name}": status for name, status in _extras().items()},
        "device": device_text,
        "bf16": "used" if compute_dtype("auto", device) is torch.bfloat16 else "not used: slow on this machine",
        "cache": f"{cache} ({', '.join(cached) if cached else 'empty'})",
        "free disk": f"{disk.free / 2**30:.1f} GiB",
    }


def _extras() -> dict[str, str]:
    """Return extra -> `complete`, or the command that installs its missing packages."""
    if _version("rlalign") == "not installed":  # a source tree on the path has no metadata
        return {}
    requirements = [Requirement(text) for text in requires("rlalign") or ()]
    statuses: dict[str, str] = {}
    for extra in metadata("rlalign").get_all("Provides-Extra") or ():
        if extra in _DEVELOPMENT_EXTRAS:
            continue
        missing = [r.name for r in requirements if _belongs_to(r, extra) and not _satisfied(r)]
        if missing:
            statuses[extra] = f"pip install -c constraints.txt -e '.[{extra}]' installs {', '.join(missing)}"
        else:
            statuses[extra] = "complete"
    return statuses


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    # A marker without `extra`, such as a Python version, is of a core package.
    return marker is not None and "extra" in str(marker) and marker.evaluate({"extra": extra})


def _satisfied(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
