"""Series of a study, shared by the SVG drawings of the report and the matplotlib images: curves, colors, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlalign.compare.analysis.two_way import t_interval
from rlalign.compare.results.schema import Curve, EnvResult

BUDGET_LABELS = {
    "samples": "samples drawn",
    "tokens": "tokens generated",
    "updates": "optimizer steps",
    "seconds": "seconds of computing",
}
"""Budget -> label of its axis, in the order in which budgets are drawn."""
MIN_SEEDS_FOR_BAND = 3
"""Student's t of two seeds has one degree of freedom: its band would cover the other curves."""


@dataclass(frozen=True)
class LearningCurve:
    """The mean over seeds at equal steps against the mean budget, with its pointwise 95 % interval (Student's t).

    The interval is None at steps with fewer than MIN_SEEDS_FOR_BAND values.
    """

    x: list[float]
    y: list[float | None]
    low: list[float | None]
    high: list[float | None]


def learning_curve(curves: Sequence[Curve], x: str, y: str = "reward") -> LearningCurve:
    """Return the learning curve of an algorithm; a failed seed counts up to its last step.

    Args:
        curves: one per seed.
        x: budget of the horizontal axis, a field of `Curve`.
        y: metric of the vertical axis, a field of `Curve`.
    """
    xs: list[float] = []
    points: list[tuple[float | None, float | None, float | None]] = []
    for i in range(max((len(curve.step) for curve in curves), default=0)):
        reaching = [curve for curve in curves if i < len(curve.step)]
        values = [v for v in (getattr(curve, y)[i] for curve in reaching) if v is not None]
        budgets = [b for b in (getattr(curve, x)[i] for curve in reaching) if b is not None]
        if not budgets:
            continue
        xs.append(sum(budgets) / len(budgets))
        if not values:
            points.append((None, None, None))
        elif len(values) < MIN_SEEDS_FOR_BAND:
            points.append((sum(values) / len(values), None, None))
        else:
            t = t_interval(values)
            points.append((t.value, t.low, t.high))
    means, low, high = ([_finite(point[k]) for point in points] for k in range(3))
    return LearningCurve(xs, means, low, high)


def single_seed_curves(env: EnvResult) -> dict[str, list[Curve]]:
    """Return each algorithm's curves per seed if the study has too few seeds for a band; empty lists otherwise."""
    seeds = max((len(result.curves) for result in env.algorithms.values()), default=0)
    return {name: result.curves if seeds < MIN_SEEDS_FOR_BAND else [] for name, result in env.algorithms.items()}


def color_indices(algorithms: Sequence[str]) -> dict[str, int]:
    """Return the index of each algorithm's color, the same in all tables, drawings and images."""
    return {name: i for i, name in enumerate(algorithms)}


def seed_means(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return each seed's mean over the prompts that were scored; None without any.

    Args:
        rows: rewards [seeds][prompts].
    """
    return [_mean(row) for row in rows]


def _mean(row: Sequence[float | None]) -> float | None:
    values = [value for value in row if value is not None]
    return sum(values) / len(values) if values else None


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
