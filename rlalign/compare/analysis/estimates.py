"""Conversion between arrays, in which NaN is missing, and the plain data of results.json, in which null is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlalign.compare.analysis.intervals import LEVEL, Interval
from rlalign.compare.results.schema import Estimate
from rlalign.types import FloatArray

# Names of interval methods, as results.json stores them.
TWO_WAY = "t, seeds × prompts"
OVER_SEEDS = "t, over seeds"
BOOTSTRAP = "expanded percentile bootstrap"

NOTHING = Estimate(None, None, None)


def estimate(interval: Interval, method: str, level: float = LEVEL) -> Estimate:
    """Return an interval as the estimate of results.json.

    Args:
        interval: value and bounds.
        method: name of the interval.
        level: its nominal coverage.
    """
    return Estimate(finite(interval.value), finite(interval.low), finite(interval.high), method, level)


def finite(x: float) -> float | None:
    """Return a number for results.json: None for NaN and infinities."""
    return x if math.isfinite(x) else None


def floats(values: Sequence[float | None]) -> FloatArray:
    """Return a list of results.json as an array, null as NaN."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def as_array(rows: Sequence[Sequence[float | None]]) -> FloatArray:
    """Return a matrix of results.json as an array, null as NaN."""
    return np.stack([floats(row) for row in rows])
