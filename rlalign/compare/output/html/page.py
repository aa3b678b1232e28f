"""The page around a report: one file, no request to anywhere, and a policy in its head that forbids any."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from importlib import resources

from rlalign.compare.output.html.html import Html, joined, tag


def page(title: str, *sections: object) -> str:
    """A whole HTML document. The browser runs our script alone: it is named by its hash."""
    here = resources.files("rlalign.compare.output.html")
    style, script = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = joined(
        (
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<link rel="icon" href="data:,">'),
            tag("title", title),
            tag("style", Html(style)),
        )
    )
    body = joined((tag("main", *sections), tag("script", Html(script))))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def section(heading: str, *children: object, id_: str | None = None) -> Html:
    """A section under a heading."""
    return tag("section", tag("h2", heading), *children, id_=id_)


def table(name: str, head: Sequence[str], rows: list[Html], numeric: set[int]) -> Html:
    """A table that scrolls by itself on a narrow screen, and says so; `numeric` columns stand to the right.

    The name is for who cannot see the heading above it.
    """
    cells = [tag("th", h, scope="col", class_="n" if i in numeric else None) for i, h in enumerate(head)]
    drawn = tag("table", tag("thead", tag("tr", cells)), tag("tbody", rows))
    hint = tag("p", "More columns to the right: scroll the table sideways →", class_="hint")
    return joined((tag("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=name), hint))


def row(cells: Sequence[object], numeric: set[int], texts: Collection[int] = ()) -> Html:
    """A row of a `table`, its first cell what the others are of; columns of `texts` run over several lines."""
    kinds = ["n" if i in numeric else "text" if i in texts else None for i in range(len(cells))]
    first, *rest = [(cell, kind) for cell, kind in zip(cells, kinds, strict=True)]
    return tag("tr", tag("th", first[0], scope="row", class_=first[1]), [tag("td", c, class_=k) for c, k in rest])


def panels(pictures: list[Html | None], class_: str = "") -> Html:
    """Pictures side by side where there is room."""
    figures = [tag("figure", p) for p in pictures if p is not None]
    return tag("div", figures, class_=f"panels {class_}".strip())


def facts(pairs: dict[str, object]) -> Html:
    """A list of names and values."""
    return tag("dl", [(tag("dt", k), tag("dd", v)) for k, v in pairs.items()])
