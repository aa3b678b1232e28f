"""The page around a report: one file that loads nothing, with a content security policy that forbids loading."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from importlib import resources

from rlalign.html.markup import Html, joined, tag


def page(title: str, *sections: object) -> str:
    """Return an HTML document with the style sheet and script inside.

    The content security policy names the script by its hash, so the browser runs no other script.
    """
    folder = resources.files("rlalign.html")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = joined(
        (
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<link rel="icon" href="data:,">'),  # without it the browser requests favicon.ico
            tag("title", title),
            tag("style", Html(style)),
        )
    )
    body = joined((tag("main", *sections), tag("script", Html(script))))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def section(heading: str, *children: object, id_: str | None = None) -> Html:
    """Return a section with its heading."""
    return tag("section", tag("h2", heading), *children, id_=id_)


def table(name: str, head: Sequence[str], rows: list[Html], numeric: set[int]) -> Html:
    """Return a table that scrolls sideways on a narrow screen, with a hint that it does.

    Args:
        name: label for screen readers, which do not connect the table to the heading above it.
        head: headings of the columns.
        rows: from `row` and `group_row`.
        numeric: indices of the columns that are aligned to the right.
    """
    cells = [tag("th", text, scope="col", class_="n" if i in numeric else None) for i, text in enumerate(head)]
    content = tag("table", tag("thead", tag("tr", cells)), tag("tbody", rows))
    hint = tag("p", "More columns to the right: scroll the table sideways →", class_="hint")
    return joined((tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=name), hint))


def row(cells: Sequence[object], numeric: set[int], texts: Collection[int] = ()) -> Html:
    """Return a row of a `table`; its first cell is the row's heading.

    Args:
        cells: contents.
        numeric: indices of the columns that are aligned to the right.
        texts: indices of the columns whose text breaks into lines.
    """
    classes = ["n" if i in numeric else "text" if i in texts else None for i in range(len(cells))]
    heading = tag("th", cells[0], scope="row", class_=classes[0])
    values = [tag("td", cell, class_=class_) for cell, class_ in zip(cells[1:], classes[1:], strict=True)]
    return tag("tr", heading, values)


def panels(drawings: Sequence[Html | None], class_: str = "") -> Html:
    """Return drawings side by side, as many as the screen is wide enough for; None is left out."""
    figures = [tag("figure", drawing) for drawing in drawings if drawing is not None]
    return tag("div", figures, class_=f"panels {class_}".strip())


def facts(pairs: dict[str, object]) -> Html:
    """Return a list of names and values."""
    return tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in pairs.items()])
