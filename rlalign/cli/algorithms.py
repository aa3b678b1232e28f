"""The table of algorithms: where each stands on the axes, or only where two of them differ."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rlalign.algorithms import ALGORITHMS, OUTSIDE, Algorithm, algorithm, diff
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError


def show(differing: Sequence[str]) -> int:
    """Print all algorithms, or the axes on which two differ."""
    console = make_console()
    if differing:
        if len(differing) != 2:
            raise UserError("--diff takes two algorithms: rlalign list algorithms --diff grpo dapo")
        console.print(_difference(*(algorithm(name) for name in differing)))
    else:
        console.print(_axes())
        console.print(f"by other trainers at the same point: {', '.join(OUTSIDE)} (docs/trl.md)")
        console.print("what is proven of each: rlalign oracle, docs/algorithms.md")
    return 0


def _difference(a: Algorithm, b: Algorithm) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in ("axis", a.name, b.name):
        table.add_column(name, style="bold" if name == "axis" else "")
    reuse = {"group_size": (a.group_size, b.group_size), "epochs": (a.epochs, b.epochs)}
    for axis, (left, right) in {**diff(a.objective, b.objective), **reuse}.items():
        if left != right:
            table.add_row(axis, str(left), str(right))
    return table


def _axes() -> Table:
    table = Table(box=None, padding=(0, 1))
    for name in ("algorithm", "arXiv", "baseline", "scale", "credit", "ratio", "trust", "aggregation", "kl"):
        table.add_column(name, style="bold" if name == "algorithm" else "", no_wrap=name == "algorithm")
    for name in ALGORITHMS:
        item = algorithm(name)
        o = item.objective
        kl = "none" if o.kl.where == "none" else f"{o.kl.where} {o.kl.estimator}"
        cells = (o.baseline, o.scale, o.credit.kind, o.ratio, o.trust.kind, o.aggregation, kl)
        table.add_row(name, item.arxiv or item.paper, *("–" if cell == "none" else cell for cell in cells))
    return table
