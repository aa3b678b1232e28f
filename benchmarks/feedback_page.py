"""Tables of docs/concepts/feedback_statistics.md from benchmarks/results/feedback_coverage.json.

python benchmarks/feedback_page.py
"""

from __future__ import annotations

import json
from typing import Any

from machine import RESULTS
from pages import DOCS, Parts, fill, table

PAGE = DOCS / "concepts" / "feedback_statistics.md"


def parts() -> Parts:
    """Return the tables of the page."""
    results: dict[str, Any] = json.loads((RESULTS / "feedback_coverage.json").read_text(encoding="utf-8"))
    tables = {}
    for name in ("rates", "no_person_effect", "strengths", "biases", "bias_power", "power", "unequal_workloads"):
        rows = results[name]["rows"]
        tables[name] = table(list(rows[0]), [_cells(row) for row in rows])
    return {PAGE: tables}


def _cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row, shares with three digits; a dash for none."""
    return ["–" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]


if __name__ == "__main__":
    fill(parts())
