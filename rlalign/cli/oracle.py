"""`rlalign oracle`: an algorithm's expected gradient against the exact gradient of the expected reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.table import Table

from rlalign.cli.console import console as make_console


@dataclass(frozen=True)
class Args:
    """Compare an algorithm's expected first update with the exact gradient on an enumerable MDP."""

    preset: str = "all"
    """Name of `rlalign list algorithms`, or all."""
    objective: str | None = None
    """Objective, baseline, trust region or loss of your own, as file.py:name, instead of a preset."""
    group_size: int = 2
    """Completions per group."""
    horizon: int = 4
    """Largest number of tokens per completion."""


def run(args: Sequence[str]) -> int:
    """Print one row per algorithm; return 0."""
    arguments = tyro.cli(Args, args=list(args), prog="rlalign oracle")
    from rlalign.oracle import Comparison, report

    rows = report(arguments.objective or arguments.preset, group_size=arguments.group_size, horizon=arguments.horizon)
    table = Table(title="expected first update against the exact gradient", title_justify="left")
    table.add_column("algorithm", style="bold", no_wrap=True)
    for rewards in ("rewards in [0, 1]", "rewards 0 or 1"):
        table.add_column(rewards, no_wrap=True)
        table.add_column("cosine", justify="right")

    def cells(comparison: Comparison) -> tuple[str, str]:
        color = "green" if comparison.verdict.startswith("exact") else "yellow"
        return f"[{color}]{comparison.verdict}[/]", f"{comparison.cosine:.4f}"

    for row in rows:
        table.add_row(row.algorithm.name, *cells(row.graded), *cells(row.binary))
    console = make_console()
    console.print(table)
    if len(rows) == 1 and rows[0].algorithm.bias:
        console.print(rows[0].algorithm.bias, soft_wrap=True)
    return 0
