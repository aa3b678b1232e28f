"""What a check of preference data found: kinds with their severity, counts, and the first rows of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

KINDS: dict[str, tuple[Severity, str]] = {
    "unreadable": ("error", "the row cannot be read"),
    "no-row": ("error", "the row has no columns"),
    "missing-side": ("error", "chosen or rejected is missing"),
    "no-side": ("error", "a column is neither a text nor messages"),
    "missing-prompt": ("error", "the prompt is missing or empty"),
    "empty-side": ("error", "a side is empty or only blanks"),
    "equal-sides": ("error", "chosen and rejected are equal: nothing can be learned from them"),
    "mixed-forms": ("error", "the row has another form than most: TRL decides for all rows by the first one"),
    "no-shared-prompt": ("error", "the prompt is implicit, and a side does not begin with it"),
    "half-character": ("error", "a text has half of a character, which no tokenizer encodes"),
    "leak": ("error", "a prompt of the test split is in the train split"),
    "all-too-long": ("error", "every row is longer than max_length: RewardTrainer would train on none"),
    "near-leak": ("warning", "a prompt of the test split has a near duplicate in the train split"),
    "too-long": ("warning", "a side is longer than max_length: RewardTrainer drops the row silently"),
    "roles": ("warning", "the roles are out of order"),
    "empty-message": ("warning", "a message is empty"),
    "prompt-repeated": ("warning", "a side begins with the prompt, which TRL puts before it once more"),
    "messages-as-text": ("warning", "a text looks like messages that were written as a text"),
    "duplicate": ("warning", "the row is equal to an earlier one"),
    "contradiction": ("warning", "an earlier row prefers the other side"),
    "negative-margin": ("warning", "the margin is negative: RewardTrainer would prefer the rejected side"),
    "nul": ("warning", "a text has a NUL character"),
    "cut": ("warning", "a side was cut by a limit of its length"),
    "always-longer": ("warning", "almost always the same side is longer: a model can learn the length alone"),
    "few-groups": ("warning", "the prompts form few groups of near duplicates, which a split does not divide"),
    "replaced-character": ("note", "a text has U+FFFD, which replaces a character that could not be read"),
    "unfinished": ("note", "many sides end without punctuation: they may have been cut"),
    "joined-words": ("note", "TRL puts prompt and side together without a space, and neither has one"),
}
"""Kind -> severity and description."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Rows with one kind of problem.

    Attributes:
        kind: one of `KINDS`.
        severity: error, warning or note.
        message: the description of the kind.
        count: number of occurrences.
        rows: place and detail of the first ones.
    """

    kind: str
    severity: Severity
    message: str
    count: int
    rows: Sequence[tuple[str, str]]


class Findings:
    """Collects findings.

    Args:
        first: number of rows that are kept per kind.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._counts: Counter[str] = Counter()
        self._rows: dict[str, list[tuple[str, str]]] = {}

    def add(self, kind: str, place: str, detail: str = "", count: int = 1) -> None:
        """Count an occurrence; the first ones are kept with their place."""
        self._counts[kind] += count
        rows = self._rows.setdefault(kind, [])
        if len(rows) < self._first:
            rows.append((place, detail))

    def sorted(self) -> list[Finding]:
        """Return the findings, errors first, in the order of `KINDS`."""
        found = [kind for kind in KINDS if self._counts[kind]]
        return [Finding(kind, *KINDS[kind], self._counts[kind], self._rows[kind]) for kind in found]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check.

    Attributes:
        source: the file.
        format: name of the format.
        reason: why it was recognized.
        rows: number of rows.
        preferences: number of preferences that the rows give.
        forms: form of TRL -> number of preferences.
        statistics: figures of the data: lengths, groups of prompts.
        findings: errors, warnings and notes.
        left_out: reason -> number of pairs without a preference.
    """

    source: str
    format: str
    reason: str
    rows: int
    preferences: int
    forms: Mapping[str, int]
    statistics: Mapping[str, Any]
    findings: Sequence[Finding]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def count(self, severity: Severity) -> int:
        """Return the number of kinds of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return self.count("error") == 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "source": self.source,
            "format": self.format,
            "reason": self.reason,
            "rows": self.rows,
            "preferences": self.preferences,
            "left_out": dict(self.left_out),
            "forms": dict(self.forms),
            "statistics": dict(self.statistics),
            "passed": self.passed,
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "message": finding.message,
                    "count": finding.count,
                    "rows": [{"place": place, "detail": detail} for place, detail in finding.rows],
                }
                for finding in self.findings
            ],
        }
