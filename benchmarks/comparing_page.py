"""Tables of docs/concepts/comparing.md from benchmarks/results/statistics_coverage.json.

python benchmarks/comparing_page.py
"""

from __future__ import annotations

import json
from typing import Any

from machine import RESULTS
from pages import DOCS, Parts, fill, table

PAGE = DOCS / "concepts" / "comparing.md"
HEADS = {
    "means": ("noise from", "seeds", "two-way", "t over seeds alone"),
    "robust": (
        "population",
        "seeds",
        "IQM",
        "IQM, plain percentile (unused)",
        "median",
        "probability of improvement",
    ),
    "aggregates": ("seeds", "mean", "IQM", "median"),
    "verdicts": ("noise from", "seeds", "studies with a false claim"),
    "power": ("seeds", "pairs", "share of studies that found it", "printed size by the true one, mean"),
}
"""Part of the results -> the heads of its table."""


def parts() -> Parts:
    """Return the tables of the page."""
    results: dict[str, Any] = json.loads((RESULTS / "statistics_coverage.json").read_text(encoding="utf-8"))
    return {PAGE: {name: table(heads, map(cells, results[name]["rows"])) for name, heads in HEADS.items()}}


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row, shares with three digits."""
    return [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]


if __name__ == "__main__":
    fill(parts())
