"""`rlalign list envs|rewards|algorithms|policies`: what there is, a line each."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro
from rich.table import Table

from rlalign.cli.console import console as make_console
from rlalign.errors import UserError
from rlalign.registry import ENVS, POLICIES, REWARDS, Registry


@dataclass(frozen=True)
class Args:
    """List what there is."""

    what: tyro.conf.Positional[Literal["envs", "rewards", "algorithms", "policies"]]
    diff: tuple[str, ...] = ()
    """Two algorithms: print only the axes on which they differ."""


def run(args: Sequence[str]) -> int:
    """Print the table."""
    given = tyro.cli(Args, args=list(args), prog="rlalign list")
    if given.diff and given.what != "algorithms":
        raise UserError(f"--diff compares two algorithms, not {given.what}: rlalign list algorithms --diff grpo dapo")
    if given.what == "algorithms":
        from rlalign.cli.algorithms import show

        return show(given.diff)
    registry: Registry[Any] = {"envs": ENVS, "rewards": REWARDS, "policies": POLICIES}[given.what]
    table = Table(box=None, padding=(0, 2))
    table.add_column(given.what[:-1] if given.what != "policies" else "policy", style="bold", no_wrap=True)
    table.add_column("what it is")
    for name in registry:
        table.add_row(name, summary(registry.get(name)))
    make_console().print(table)
    return 0


def summary(item: Any) -> str:
    """The first sentence of what an object says of itself."""
    text = getattr(item, "description", None) or inspect.getdoc(getattr(item, "function", item)) or ""
    return " ".join(str(text).split("\n\n")[0].split())
