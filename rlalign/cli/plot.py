"""`rlalign plot RUN [RUN ...]`: the training curves of one or more runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Args:
    """Plot the reward and KL curves of runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path = Path("curves.png")
    """Picture to write. With a single run, its report/reward.png is written too."""


def run(args: Sequence[str]) -> int:
    """Write the picture and print its path; return 0."""
    arguments = tyro.cli(Args, args=list(args), prog="rlalign plot")
    from rlalign.errors import UserError
    from rlalign.log.plots import plot_run, plot_runs
    from rlalign.run import Run

    if not arguments.runs:
        raise UserError("expected at least one run folder, got none; use rlalign plot runs/a runs/b")
    folders = [Run(folder).folder for folder in arguments.runs]
    print(plot_runs(folders, arguments.output))
    if len(folders) == 1:
        print(plot_run(folders[0]))
    return 0
