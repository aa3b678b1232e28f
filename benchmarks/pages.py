"""Generated parts of the pages in docs/, between the marks `<!-- name: script -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def fill(page: Path, parts: dict[str, str]) -> None:
    """Write each part between its marks."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        marks = re.search(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", text, flags=re.DOTALL)
        assert marks, f"{page} has no marks for '{name}'"
        text = f"{text[: marks.start()]}{marks[1]}{part}\n{marks[2]}{text[marks.end() :]}"
    page.write_text(text, encoding="utf-8")
