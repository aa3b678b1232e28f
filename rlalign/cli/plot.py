"""`rlalign plot RUN [RUN ...]`: the curves of one or several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Args:
    """Draw reward and KL curves."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path = Path("curves.png")
    """Picture to write (with one run: its report/reward.png as well)."""


def run(args: Sequence[str]) -> int:
    """Draw."""
    given = tyro.cli(Args, args=list(args), prog="rlalign plot")
    from rlalign.errors import UserError
    from rlalign.log.plots import plot_run, plot_runs
    from rlalign.run import Run

    if not given.runs:
        raise UserError("name at least one run folder: rlalign plot runs/a runs/b")
    folders = [Run(folder).folder for folder in given.runs]
    print(plot_runs(folders, given.output))
    if len(folders) == 1:
        print(plot_run(folders[0]))
    return 0
