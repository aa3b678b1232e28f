"""What a component counts: a number, a number that follows a schedule, or a multiplier that enforces a constraint.

    0.5                     always
    0.5@0:1.0@100           straight lines through (step, weight); before the first and after the last, their weights
    toxicity<=0.1@0.5       a bound, and the rate (by default 0.1) at which the multiplier follows its violation

Weights move within the steps of training only. Outside of them, in every evaluation, a schedule has its last weight and
a multiplier is 0, so that before and after are measured alike; the constrained component is reported beside the reward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rlalign.errors import UserError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINTS = re.compile(rf"{_NUMBER}@\d+(?::{_NUMBER}@\d+)*")
_BOUND = re.compile(rf"(<=|>=)({_NUMBER})(?:@({_NUMBER}))?$")
_RATE = 0.1


@dataclass(frozen=True)
class Schedule:
    """A weight that is a function of the step, by points or by any function.

    Attributes:
        points: (step, weight), steps increasing; straight lines between them.
        function: step -> weight, instead of points.
        factor: multiplies both.
        last: the step whose weight holds outside of training; None: the last point's, or a function's at step 0.
    """

    points: tuple[tuple[int, float], ...] = ()
    function: Callable[[int], float] | None = None
    factor: float = 1.0
    last: int | None = None

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if (self.function is None) == (not steps):
            raise UserError("a schedule has points or a function: Schedule(((0, 0.5), (100, 1.0)))")
        if any(a >= b for a, b in pairwise(steps)):
            raise UserError(f"the steps of a schedule must increase, they are {steps}")

    def at(self, step: int | None) -> float:
        """The weight at a step; None: outside of training."""
        if step is None:
            step = self.last if self.last is not None else self.points[-1][0] if self.points else 0
        if self.function is not None:
            value = float(self.function(step))
        else:
            value = float(np.interp(step, [at for at, _ in self.points], [weight for _, weight in self.points]))
        if not math.isfinite(value):
            raise UserError(f"a schedule gave {value} as the weight of step {step}: give a finite number")
        return self.factor * value


@dataclass(frozen=True)
class Constraint:
    """Keep a component's mean on one side of a bound, by dual ascent on its multiplier.

        weight = -s · multiplier,   multiplier <- max(0, multiplier + rate · s · (mean - bound))   after every step

    with s = 1 for an upper bound, -1 for a lower one. The constant s · multiplier · bound of the Lagrangian is left
    out: it is the same for all samples of a step, and without it the total is the weighted sum of what is logged.
    Source: Tessler et al., Reward constrained policy optimization, arXiv 1805.11074.

    Attributes:
        bound: what the mean of a step's samples shall not pass.
        upper: whether it is an upper bound.
        rate: how fast the multiplier follows.
    """

    bound: float
    upper: bool = True
    rate: float = _RATE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and 0 < self.rate < math.inf):
            raise UserError(f"a constraint has a finite bound and a rate above 0, not {self.bound} and {self.rate}")

    def weight(self, multiplier: float) -> float:
        """The component's weight for a multiplier."""
        return 0.0 if multiplier == 0 else -multiplier if self.upper else multiplier

    def follow(self, multiplier: float, mean: float) -> float:
        """The multiplier after a step in which the component had this mean; unchanged by NaN."""
        violation = mean - self.bound if self.upper else self.bound - mean
        return multiplier if math.isnan(violation) else max(0.0, multiplier + self.rate * violation)


Weight = float | Schedule | Constraint


def as_weight(value: object, name: str) -> Weight:
    """The weight that a number, a text, a function of the step or a weight means. Raises UserError for the rest."""
    if isinstance(value, Schedule | Constraint):
        return value
    if isinstance(value, str) and _POINTS.fullmatch(value):
        points = (point.split("@") for point in value.split(":"))
        return Schedule(tuple((int(step), float(weight)) for weight, step in points))
    if callable(value):
        return Schedule(function=value)
    try:
        weight = float(value)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"reward '{name}': weight '{value}' is no finite number: write {name}=0.5, say")
    return weight


def times(first: Weight, second: Weight, name: str) -> Weight:
    """Two weights of one reward as one. Raises UserError where neither is a plain number."""
    if isinstance(first, float) and isinstance(second, float):
        return first * second
    moving, factor = (second, first) if isinstance(first, float) else (first, second)
    if factor == 1.0:
        return moving
    if isinstance(moving, Schedule) and isinstance(factor, float):
        return Schedule(moving.points, moving.function, moving.factor * factor, moving.last)
    raise UserError(f"reward '{name}': a constraint has no weight besides its multiplier, give it the weight 1")


def split_bound(spec: str) -> tuple[str, Constraint | None]:
    """A spec without its bound, and the constraint.

    >>> split_bound("toxicity<=0.1@0.5")
    ('toxicity', Constraint(bound=0.1, upper=True, rate=0.5))
    """
    found = _BOUND.search(spec)
    if found is None:
        return spec, None
    side, bound, rate = found.groups()
    return spec[: found.start()], Constraint(float(bound), side == "<=", float(rate) if rate else _RATE)


def is_points(text: str) -> bool:
    """Whether a text writes a schedule."""
    return _POINTS.fullmatch(text) is not None
