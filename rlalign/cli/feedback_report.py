"""`rlalign feedback report`: agreement, biases, win rates and strengths with intervals, as one page and a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.cli.feedback_output import refuse_loss
from rlalign.escaping.terminal import print_text


@dataclass(frozen=True)
class Report:
    """Write what the votes say: one HTML page, and all its numbers as JSON beside it. The store counts each look."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    output: Path | None = None
    """Path of the page; None: report.html beside the store. The JSON file has the same name."""


def run_report(arguments: Report) -> int:
    """Write the report and print its first sentences; return 0."""
    from rlalign.feedback.report import write_report
    from rlalign.feedback.store import Store, is_postgres

    folder = Path() if is_postgres(arguments.store) else Path(arguments.store).parent
    output = arguments.output or folder / "report.html"
    for path in (output, output.with_suffix(".json")):
        refuse_loss("--output", path, [] if is_postgres(arguments.store) else [arguments.store])
    with Store(arguments.store) as store:
        report = write_report(store, output)
    for sentence in report.verdict:
        print_text(sentence)
    print_text(f"report: {report.page} and {report.data}")
    return 0
