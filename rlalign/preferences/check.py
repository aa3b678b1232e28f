"""All checks of a file of preference data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row, read_rows
from rlalign.preferences.findings import Findings, Report
from rlalign.preferences.formats import Recognized, preferences_in, read_row, recognized
from rlalign.preferences.pairs import Preference, problems_of
from rlalign.preferences.row_checks import row_problems
from rlalign.preferences.set_checks import SetChecks
from rlalign.preferences.token_checks import TokenChecks


def check_preferences(
    source: str | Path,
    *,
    format: str = "auto",
    tokenizer: str | None = None,
    max_length: int | None = None,
    test: str | Path | None = None,
    first: int = 5,
    **options: Any,
) -> Report:
    """Return what is wrong with preference data.

    Rows are read one by one. Digests and prompts of all rows are held in memory.

    Args:
        source: a file, a folder of `datasets`, or the name of a data set of the hub.
        format: name of a format (`formats.FORMATS`), or "auto".
        tokenizer: name or folder; sides are compared after tokenizing.
        max_length: largest number of tokens that RewardTrainer keeps; needs a tokenizer.
        test: a second file, whose prompts must not be in the first one.
        first: number of rows that are kept per kind of finding.
        options: of `read_preferences`, such as `pairing`.

    Raises:
        UserError: the file cannot be read, no format fits, or the tokenizer cannot be used.
    """
    if max_length is not None and tokenizer is None:
        raise UserError(
            f"--max-length {max_length}: expected a tokenizer that counts tokens, got none; add --tokenizer"
        )
    if max_length is not None and max_length < 1:
        raise UserError(f"--max-length: expected 1 or more tokens, got {max_length}; use 1024, the default of TRL")
    findings = Findings(first)
    tokens = None if tokenizer is None else TokenChecks(tokenizer, max_length)
    together = SetChecks(findings, first)
    left_out: Counter[str] = Counter()
    counted = _Counted(read_rows(source))
    found, rows = recognized(counted, format, source)
    preferences = 0
    for preference in _preferences(found, rows, findings, left_out, options):
        preferences += 1
        for kind, detail in row_problems(preference):
            findings.add(kind, preference.place, detail)
        together.add(preference)
        if tokens is not None:
            _add(findings, tokens.add(preference))
    if tokens is not None:
        _add(findings, tokens.finish())
        if preferences and tokens.too_long == preferences:
            findings.add("all-too-long", "all rows", f"the longest has {tokens.longest} tokens", preferences)
    if test is not None:
        other, test_rows = recognized(read_rows(test), format, test)
        for preference in _preferences(other, test_rows, Findings(0), Counter(), options):
            together.add_test(preference)
    statistics = together.finish(test=test is not None)
    if tokens is not None:
        statistics["longest_tokens"] = tokens.longest
    return Report(
        str(source), found.format.name, found.reason, counted.count, preferences, dict(together.forms), statistics,
        findings.sorted(), dict(left_out),
    )  # fmt: skip


class _Counted:
    """Rows that are counted while they are read."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row


def _add(findings: Findings, found: Iterator[tuple[str, str, str]]) -> None:
    for kind, place, detail in found:
        findings.add(kind, place, detail)


def _preferences(
    found: Recognized, rows: Iterator[Row], findings: Findings, left_out: Counter[str], options: dict[str, Any]
) -> Iterator[Preference]:
    """Yield the preferences of the rows that can be read; the others are findings."""
    format = found.format

    def readable() -> Iterator[Row]:
        for row in rows:
            if row.problem:
                findings.add("unreadable", row.place, row.problem)
            else:
                yield row

    if format.whole:
        yield from preferences_in(format, readable(), left_out, **options)
        return
    for row in readable():
        problems = list(problems_of(row.record)) if format.name in ("trl", "hh-rlhf") else []
        for kind, detail in problems:
            findings.add(kind, row.place, detail.partition(";")[0])
        if problems:
            continue
        try:
            yield from list(read_row(format, row, left_out, **options))
        except UserError as error:
            findings.add("unreadable", row.place, str(error).removeprefix(f"{row.place}: "))
