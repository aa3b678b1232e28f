"""Estimates with their intervals as drawings."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from rlalign.feedback.report.values import Values
from rlalign.html.markup import Html
from rlalign.html.rows import draw_estimate, row_label, row_panel
from rlalign.html.svg import axis_range

MOST_ROWS = 30
"""Rows of a drawing that can be read."""
_NUMBERS = ("value", "low", "high")


def forest(title: str, rows: Sequence[tuple[str, int, Values]], x_label: str, null: float, scale: float = 1.0) -> Html:
    """Return a drawing with a row per estimate: a dot with the interval of its headline, and a line at `null`.

    Args:
        title: of the drawing.
        rows: label, index of the color (-1: gray) and estimate.
        x_label: label of the axis.
        null: value without a difference.
        scale: factor of the numbers, such as 100 for percent.
    """
    parts = [(label, color, _main(estimate)) for label, color, estimate in rows]

    def scaled(value: float | None) -> float | None:
        return None if value is None else scale * value

    edges = [scaled(estimate[name]) for _, _, estimate in parts for name in _NUMBERS]
    panel = row_panel(title, [label for label, _, _ in parts], axis_range([*edges, scale * null]))
    panel.x_label = x_label
    panel.grid(horizontal=False, vertical=True)
    panel.reference_line(x=scale * null)
    for place, (label, color, estimate) in enumerate(parts):
        numbers = {name: scaled(estimate[name]) for name in _NUMBERS}
        draw_estimate(panel, SimpleNamespace(**numbers, level=estimate["level"]), -float(place), color)
        row_label(panel, -float(place), label)
    return panel.svg()


def _main(estimate: Values) -> dict[str, float | None]:
    """Return the estimate of the headline."""
    content: dict[str, float | None] = (
        estimate[estimate.content["headline"]] if "headline" in estimate.content else estimate
    ).content
    return content
