"""docs/reference/algorithms.md equals the generated page, except for measured digits, which tests/exact covers."""

from __future__ import annotations

import re
from pathlib import Path

from rlalign.algorithms import ALGORITHMS
from rlalign.oracle import markdown

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "algorithms.md"


def skeleton(text: str) -> list[str]:
    """Return the page without the table cells that depend on the size of the MDP: measured numbers and verdicts."""
    lines = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            line = " | ".join(c for c in cells if not re.match(r"^-?[\d.]+$|^(biased|exact|zero)\b", c))
        lines.append(line)
    return lines


def test_the_committed_page_is_current() -> None:
    assert skeleton(PAGE.read_text()) == skeleton(markdown(horizon=1)), (
        "run: python -m rlalign.oracle > docs/reference/algorithms.md"
    )


def test_the_page_has_a_section_for_every_preset() -> None:
    text = PAGE.read_text()
    for name in ALGORITHMS:
        assert f"\n## {name}\n" in text
