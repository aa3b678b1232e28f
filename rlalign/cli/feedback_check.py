"""`rlalign feedback check`: what is wrong with preference data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rlalign.cli.feedback_output import refuse_existing, refuse_loss
from rlalign.escaping.terminal import in_one_line, print_text

if TYPE_CHECKING:
    from rlalign.preferences.findings import Finding, Report


@dataclass(frozen=True)
class Check:
    """Check preference data from anywhere, and name the rows that are wrong. The exit status is 1 after errors."""

    data: tyro.conf.Positional[str]
    """A .jsonl, .json, .csv or .parquet file, a folder of `datasets`, or the name of a data set of the hub."""
    format: str = "auto"
    """trl, hh-rlhf, ultrafeedback, argilla, label-studio or votes; auto: it is recognized and printed."""
    tokenizer: str | None = None
    """Name or folder of a tokenizer: sides are compared, and tokens are counted, as RewardTrainer does; None: words are
    compared."""
    max_length: int | None = None
    """Largest number of tokens that RewardTrainer keeps; needs --tokenizer. None: no limit."""
    test: str | None = None
    """A second file whose prompts must not be in the first one; None: no other file."""
    rows: int = 5
    """Number of rows that are named per kind of finding."""
    json: Path | None = None
    """New file for the report as JSON; None: no file."""
    force: bool = False
    """Replace a file of --json that exists."""


def run_check(arguments: Check) -> int:
    """Print the report; return 1 if it has errors, else 0.

    Raises:
        UserError: the data cannot be read, no format fits, or --json would replace the data or a file that exists.
    """
    import json

    from rlalign.preferences.check import check_preferences
    from rlalign.storage.atomic import write_atomic
    from rlalign.typecheck import check_range

    check_range("--rows", arguments.rows, least=1)
    if arguments.json is not None:
        sources = [arguments.data] if arguments.test is None else [arguments.data, arguments.test]
        refuse_loss("--json", arguments.json, sources)
        refuse_existing("--json", arguments.json, force=arguments.force)
    report = check_preferences(
        arguments.data, format=arguments.format, tokenizer=arguments.tokenizer, max_length=arguments.max_length,
        test=arguments.test, first=arguments.rows,
    )  # fmt: skip
    _print_report(report)
    if arguments.json is not None:
        write_atomic(arguments.json, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
    return 0 if report.passed else 1


def _print_report(report: Report) -> None:
    print_text(f"{report.source}: {report.rows} rows in the format {report.format} ({report.reason})")
    forms = ", ".join(f"{count} {form}" for form, count in report.forms.items()) or "none"
    print_text(f"preferences: {report.preferences}, form: {forms}")
    if report.left_out:
        print_text("left out: " + ", ".join(f"{count} x {reason}" for reason, count in sorted(report.left_out.items())))
    _print_statistics(report.statistics)
    for finding in report.findings:
        print_text(f"{finding.severity:8} {finding.kind}: {finding.message} ({finding.count})")
        for line in _rows(finding):
            print_text(f"         {line}")
    counts = [(report.count("error"), "error"), (report.count("warning"), "warning"), (report.count("note"), "note")]
    print_text(", ".join(f"{count} kinds of {word}s" if count != 1 else f"1 kind of {word}s" for count, word in counts))


def _rows(finding: Finding) -> list[str]:
    lines = [in_one_line(f"{place}: {detail}" if detail else place) for place, detail in finding.rows]
    named = len(finding.rows)
    if finding.count > named and finding.rows[0][0] != "all rows":
        lines.append(f"and {finding.count - named} more")
    return lines


def _print_statistics(statistics: Any) -> None:
    splits = ", ".join(f"{count} {name}" for name, count in statistics["splits"].items())
    print_text(f"prompts: {statistics['prompts']} in {statistics['prompt_groups']} groups; splits: {splits or 'none'}")
    share = statistics["chosen_longer"]
    if share is None:
        return
    correlation = statistics["length_correlation"]
    print_text(
        f"length in characters: chosen is longer in {share:.1%} of {statistics['pairs_of_different_length']} pairs of "
        f"different length; means {statistics['mean_length_chosen']:.1f} and {statistics['mean_length_rejected']:.1f}; "
        f"correlation of label and length {0.0 if correlation is None else correlation:+.2f}"
    )
