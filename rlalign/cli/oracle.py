"""`rlalign oracle`: the exact expectation of an algorithm's gradient against the gradient of what it maximises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.table import Table

from rlalign.cli.console import console as make_console


@dataclass(frozen=True)
class Args:
    """Prove what an algorithm's gradient is, exactly, on an enumerable MDP."""

    preset: str = "all"
    """A name of `rlalign list algorithms`, or all."""
    objective: str | None = None
    """Your own instead: file.py:name of an Objective, a baseline, a trust region or a loss."""
    group_size: int = 2
    """Completions of a group."""
    horizon: int = 4
    """Tokens of a completion at most."""


def run(args: Sequence[str]) -> int:
    """Print a row for each algorithm."""
    given = tyro.cli(Args, args=list(args), prog="rlalign oracle")
    from rlalign.oracle import Comparison, report

    rows = report(given.objective or given.preset, group_size=given.group_size, horizon=given.horizon)
    table = Table(title="expected first update against the exact gradient", title_justify="left")
    table.add_column("algorithm", style="bold", no_wrap=True)
    for rewards in ("rewards in [0, 1]", "rewards 0 or 1"):
        table.add_column(rewards, no_wrap=True)
        table.add_column("cosine", justify="right")

    def cells(c: Comparison) -> tuple[str, str]:
        colour = "green" if c.verdict.startswith("exact") else "yellow"
        return f"[{colour}]{c.verdict}[/]", f"{c.cosine:.4f}"

    for row in rows:
        table.add_row(row.algorithm.name, *cells(row.graded), *cells(row.binary))
    console = make_console()
    console.print(table)
    for row in rows:
        if row.algorithm.bias and len(rows) == 1:
            console.print(row.algorithm.bias, soft_wrap=True)
    return 0
