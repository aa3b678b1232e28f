"""Between the arrays of statistics.py, where NaN is missing, and the plain data of results.json, where null is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlalign.compare.analysis.statistics import LEVEL, Interval
from rlalign.compare.results.schema import Estimate
from rlalign.types import FloatArray

TWO_WAY = "t, seeds × prompts"
OVER_SEEDS = "t, over seeds"
BOOTSTRAP = "expanded percentile bootstrap"
NOTHING = Estimate(None, None, None)


def estimate(interval: Interval, method: str, level: float = LEVEL) -> Estimate:
    """An interval for results.json."""
    return Estimate(finite(interval.value), finite(interval.low), finite(interval.high), method, level)


def finite(x: float) -> float | None:
    """A number for results.json, None for NaN and infinities."""
    return x if math.isfinite(x) else None


def floats(values: Sequence[float | None]) -> FloatArray:
    """A list of results.json, null as NaN."""
    return np.array([math.nan if v is None else v for v in values], dtype=float)


def as_array(rows: Sequence[Sequence[float | None]]) -> FloatArray:
    """A matrix of results.json, null as NaN."""
    return np.stack([floats(row) for row in rows])
