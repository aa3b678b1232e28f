"""`rlalign plot RUN [RUN ...]`: the training curves of one or more runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.escaping.terminal import print_text


@dataclass(frozen=True)
class Args:
    """Plot the reward and KL curves of runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; others in the list, as `runs/*` may hold, are named and skipped."""
    output: Path = Path("curves.png")
    """Picture to write. With a single run, its report/reward.png is written too."""


def run(args: Sequence[str]) -> int:
    """Write the picture and print its path; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign plot")
    from rlalign.errors import UserError
    from rlalign.log.plots import plot_run, plot_runs

    if not arguments.runs:
        raise UserError("expected at least one run folder, got none; use rlalign plot runs/a runs/b")
    folders = []
    for folder in arguments.runs:
        if reason := _obstacle(folder):
            if len(arguments.runs) == 1:
                raise UserError(reason)
            print_text(f"skipped: {reason}", to_stderr=True)
        else:
            folders.append(folder)
    if not folders:
        raise UserError("expected a run with metrics, got none; use rlalign train, or another folder")
    print_text(plot_runs(folders, arguments.output))
    if len(folders) == 1:
        print_text(plot_run(folders[0]))
    return 0


def _obstacle(folder: Path) -> str:
    """Return why a folder cannot be plotted; "" if it can."""
    from rlalign.errors import UserError
    from rlalign.log.plots import DRAWABLE, no_curve
    from rlalign.run import Run

    if (folder / "results.json").is_file() or (folder / "search.json").is_file():
        return f"'{folder}' is a study or a search; use rlalign report {folder}"
    try:
        run = Run(folder)
    except UserError as error:
        return str(error)
    return "" if any(run.metrics.get(key) for key in DRAWABLE) else no_curve(folder)
