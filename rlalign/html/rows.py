"""Drawings with a row per value: a dot with its interval beside a label."""

from __future__ import annotations

from collections.abc import Sequence

from rlalign.html.numbers import Estimate, interval, number
from rlalign.html.svg import WIDTH, Panel, label_margin

_ROW_HEIGHT = 26.0


def row_panel(title: str, labels: Sequence[str], x: tuple[float, float]) -> Panel:
    """Return a panel with one row per label; row i has the vertical coordinate -i."""
    left = min(label_margin(labels) - 2, WIDTH * 0.45)
    height = 30 + _ROW_HEIGHT * len(labels) + 44
    return Panel(x=x, y=(0.5 - len(labels), 0.5), title=title, height=height, left=left, top=26)


def row_label(panel: Panel, y: float, label: str) -> None:
    """Write the label of a row of `row_panel` to the left of the panel."""
    panel.text(panel.left - 8, panel.at_y(y) + 4, label, "tick end name")


def draw_estimate(panel: Panel, estimate: Estimate, y: float, color: int) -> None:
    """Draw a value with its interval; nothing for a missing one."""
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        panel.whisker(estimate.low, estimate.high, y, color)
    panel.dot(estimate.value, y, color, r=4.0, note=f"{number(estimate.value)} {interval(estimate)}")
