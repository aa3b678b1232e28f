"""The logged rows of a run, summarized as means over its first, last and best steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlalign.types import FloatArray

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class History:
    """Rows of a run in the order of steps; `start` and `now` are means over `width` steps at either end."""

    rows: Sequence[Row]

    @property
    def width(self) -> int:
        """A fifth of the run, between 3 and 10 steps: enough to average out noise, few enough to be current."""
        return min(10, max(3, len(self.rows) // 5))

    def column(self, name: str, rows: Sequence[Row] | None = None) -> FloatArray:
        """Return a metric's value per row, NaN if a row has none."""
        rows = self.rows if rows is None else rows
        values = [row.get(name) for row in rows]
        return np.array([math.nan if value is None else value for value in values], float)

    def mean(self, name: str) -> float:
        """Return the mean over the run."""
        return finite_mean(self.column(name))

    def start(self, name: str) -> float:
        """Return the mean over the first `width` steps."""
        return finite_mean(self.column(name, self.rows[: self.width]))

    def now(self, name: str) -> float:
        """Return the mean over the last `width` steps."""
        return finite_mean(self.column(name, self.rows[-self.width :]))

    def rise(self, name: str) -> float:
        """Return `now` minus `start`."""
        return self.now(name) - self.start(name)

    def peak(self, name: str) -> float:
        """Return the largest mean over `width` consecutive steps; NaN if a value is missing."""
        values = self.column(name)
        if len(values) < self.width or np.isnan(values).any():
            return math.nan
        # a convolution with equal weights is a moving average
        return float(np.convolve(values, np.ones(self.width) / self.width, "valid").max())

    def last_fifth(self) -> list[History]:
        """Return the history at five points in time, from now back to a fifth of the run ago."""
        fifth = len(self.rows) // 5
        return [History(self.rows[: len(self.rows) - fifth * i // 4]) for i in range(5)]

    def gain(self, name: str, std: str) -> float:
        """Return the rise of `name` in standard deviations of a sample, logged as `std`.

        The standard deviation is that of the start, but at least half of its mean over the run, so that a start without
        spread does not make every rise infinite.
        """
        spread = self.spread(std)
        # 0 · rise keeps a NaN, which means that nothing is known of the rise
        return self.rise(name) / spread if spread > 0 else 0.0 * self.rise(name)

    def spread(self, std: str) -> float:
        """Return the standard deviation of a sample by which `gain` divides."""
        return max(self.start(std), self.mean(std) / 2)


def finite_mean(values: FloatArray) -> float:
    """Return the mean of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
