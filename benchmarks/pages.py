"""Generated parts of the pages in docs/, between the marks `<!-- name: script -->` and `<!-- /name -->`.

A script that draws a page has a function `parts() -> {page: {name: part}}`. tests/docs/test_figures.py compares the
pages with what the stored results give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"

Parts = Mapping[Path, Mapping[str, str]]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def fill(parts: Parts) -> None:
    """Write each part between its marks."""
    for page, texts in parts.items():
        page.write_text(filled(page, texts), encoding="utf-8")


def filled(page: Path, texts: Mapping[str, str]) -> str:
    """Return the text of a page with each part between its marks."""
    text = page.read_text(encoding="utf-8")
    for name, part in texts.items():
        marks = re.search(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", text, flags=re.DOTALL)
        assert marks, f"{page} has no marks for '{name}'"
        text = f"{text[: marks.start()]}{marks[1]}{part}\n{marks[2]}{text[marks.end() :]}"
    return text
