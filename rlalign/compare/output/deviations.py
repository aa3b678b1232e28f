"""Standard deviations of results as text, with a mark for those whose estimate is clipped."""

from __future__ import annotations

from rlalign.html.numbers import number

CLIPPED = "0 †"
CLIPPED_NOTE = (
    "† The estimate of the variance is negative and set to 0: the residual alone explains differences as large as "
    "these. It does not mean that they are equal."
)


def deviation(value: float | None) -> str:
    """Return a standard deviation of `TwoWay` as text; 0 is the mark of an estimate below it."""
    return CLIPPED if value == 0 else number(value)
