"""Tables of the generated pages that a phone shows as blocks: each cell knows the head of its column.

A table of three or more columns, one of them `meaning`, hides that column on a narrow screen. It gets the class
`stacked`, and its cells other than the first and the meaning get the attribute `data-head`. Cells without text get the
class `empty`. site.css does the rest.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

EXPLAINS = "meaning"


class Translator(HTML5Translator):
    """The HTML writer that gives cells their heads."""

    def visit_entry(self, node: nodes.entry) -> None:
        """Write the tag of a cell."""
        super().visit_entry(node)
        if head := node.get("data-head"):
            self.body[-1] = self.body[-1].replace("<td", f'<td data-head="{self.attval(head)}"', 1)


def _mark(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Mark the tables that explain, and their cells."""
    for table in tree.findall(nodes.table):
        head = next(table.findall(nodes.thead), None)
        heads = [entry.astext() for entry in head.findall(nodes.entry)] if head else []
        if len(heads) < 3 or EXPLAINS not in heads:
            continue
        table["classes"].append("stacked")
        for row in next(table.findall(nodes.tbody)).findall(nodes.row):
            for text, cell in zip(heads[1:], list(row.findall(nodes.entry))[1:], strict=True):
                if not cell.astext():
                    cell["classes"].append("empty")
                elif text != EXPLAINS:
                    cell["data-head"] = text


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the writer and the marks."""
    app.set_translator("html", Translator)
    app.connect("doctree-resolved", _mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
