"""`rlalign report FOLDER`: the HTML report of a study, a run or a search, written from its stored data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.escaping.terminal import print_text


@dataclass(frozen=True)
class Args:
    """Write the HTML report of a study (`rlalign compare`), a run or a search (`rlalign tune`) from its stored data."""

    folder: tyro.conf.Positional[Path]
    """Output folder of a study or a search, or a run folder."""


def run(args: Sequence[str]) -> int:
    """Write the report and print its path; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign report")
    print_text(write(arguments.folder))
    return 0


def write(folder: Path) -> Path:
    """Write the report of a folder's study, run or search and return its path.

    Raises:
        UserError: if the folder holds none of the three.
    """
    from rlalign.compare.tuning.search_results import holds_search
    from rlalign.errors import UserError

    if (folder / "results.json").is_file():
        from rlalign.compare.output.html import write_report
        from rlalign.compare.results.results_json import read_results

        return write_report(folder, read_results(folder))
    if (folder / "config.json").is_file():
        from rlalign.compare.output.html import write_run_report
        from rlalign.run import Run

        return write_run_report(Run(folder))
    if holds_search(folder):
        from rlalign.compare.output.html.search import write_search_report

        return write_search_report(folder)
    raise UserError(
        f"'{folder}' holds no study (results.json), run (config.json) or search (trials.json): use the --output "
        "folder of rlalign compare, train or tune"
    )
