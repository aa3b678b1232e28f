"""`rlalign evaluate RUN`: before and after on the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from rlalign.cli.console import console as make_console

if TYPE_CHECKING:
    from rlalign.evaluation.before_after import Comparison


@dataclass(frozen=True)
class Args:
    """Compare a run's policy with its start on held-out prompts."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Where the prompts are from."""
    prompts: int | None = None
    """Held-out prompts; None: as many as the run's own evaluation."""
    k: Annotated[int | None, tyro.conf.arg(aliases=["--samples"])] = None
    """Completions of each, for pass@k and avg@k; None: as many as the run's own evaluation."""
    folds: int = 0
    """Disjoint parts of the prompts for a cross-validated estimate; 0: none."""
    baseline: str | None = None
    """Compare with this policy (run folder, policy folder, name) instead of the run's start."""
    env: str | None = None
    """Another environment than the run's."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""


def run(args: Sequence[str]) -> int:
    """Evaluate."""
    given = tyro.cli(Args, args=list(args), prog="rlalign evaluate")
    from rlalign.cli.train import print_comparison, print_samples
    from rlalign.run import Run
    from rlalign.storage.jsonl import nullable

    comparison = Run(given.run).evaluate(
        split=given.split,
        prompts=given.prompts,
        samples=given.k,
        env=given.env,
        baseline=given.baseline,
        folds=given.folds,
    )
    if given.json_:
        print(json.dumps(nullable(comparison.to_dict()), ensure_ascii=False, indent=1))
        return 0
    console = make_console()
    print_comparison(console, comparison)
    print_reports(console, comparison)
    print_samples(console, comparison)
    console.print(f"[bold]{comparison.verdict}[/]", soft_wrap=True)
    return 0


def print_reports(console: Console, comparison: Comparison) -> None:
    """Corpus-level figures before and after, the confusion matrix after, and the folds."""
    from rlalign.cli.train import plain

    before, after = comparison.before.report, comparison.after.report
    table = _table("over all completions", "", "before", "after")
    for name in after.figures:
        table.add_row(name, f"{before.figures.get(name, float('nan')):.3f}", f"{after.figures[name]:.3f}")
    console.print(table)
    for name, note in after.notes.items():
        console.print(f"{name}: {note}", soft_wrap=True, markup=False)
    if after.confusion:
        said = list(next(iter(after.confusion.values())))
        table = _table("confusion after: answer (rows), said (columns)", "", *map(plain, said))
        for answer, row in after.confusion.items():
            table.add_row(plain(answer), *(str(row[name]) for name in said))
        console.print(table)
    if comparison.folds:
        table = _table(f"mean ± standard deviation over {comparison.folds} folds", "", "before", "after", "difference")
        for name, fold in comparison.cross_validated.items():
            shown = [f"{fold[what]:.3f} ± {fold[f'{what}_std']:.3f}" for what in ("before", "after", "difference")]
            table.add_row(plain(name), *shown)
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if not name else "right")
    return table
