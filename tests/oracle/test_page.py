"""docs/algorithms.md is what the code generates, the measured digits aside (they are proven in tests/exact)."""

from __future__ import annotations

import re
from pathlib import Path

from rlalign.algorithms import ALGORITHMS
from rlalign.oracle import markdown

PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"


def skeleton(text: str) -> list[str]:
    """The page without what depends on the size of the enumerated MDP: measured numbers and verdicts in tables."""
    kept = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            line = " | ".join(c for c in cells if not re.match(r"^-?[\d.]+$|^(biased|exact|zero)\b", c))
        kept.append(line)
    return kept


def test_the_committed_page_is_current() -> None:
    assert skeleton(PAGE.read_text()) == skeleton(markdown(horizon=1)), (
        "run: python -m rlalign.oracle > docs/algorithms.md"
    )


def test_the_page_has_a_section_for_every_preset() -> None:
    text = PAGE.read_text()
    for name in ALGORITHMS:
        assert f"\n## {name}\n" in text
