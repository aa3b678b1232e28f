"""Weights of reward components: a constant, a schedule over steps, or the multiplier of a constraint.

    0.5                     constant
    0.5@0:1.0@100           linear between (step, weight) points, constant before the first and after the last
    toxicity<=0.1@0.5       a bound, and the rate (default 0.1) at which the multiplier follows its violation

Weights change during training steps only. In every evaluation a schedule has its last weight and a multiplier is 0, so
that evaluations before and after training use the same reward. The constrained component is reported next to it.
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
_RATE = 0.1  # default learning rate of a multiplier


@dataclass(frozen=True)
class Schedule:
    """A weight that depends on the training step, by points or by a function; in a spec, `0.5@0:1.0@100`.

    Attributes:
        points: (step, weight) pairs with increasing steps, interpolated linearly.
        function: step -> weight, instead of points.
        factor: multiplies the result.
        last: the step whose weight holds outside of training; None: the last point, or step 0 of a function.

    Raises:
        UserError: there are both points and a function or neither, or the steps do not increase.

    Example:
        >>> weight = Schedule(((0, 0.5), (100, 1.0)))
        >>> weight.at(0), weight.at(50), weight.at(500), weight.at(None)
        (0.5, 0.75, 1.0, 1.0)
    """

    points: tuple[tuple[int, float], ...] = ()
    function: Callable[[int], float] | None = None
    factor: float = 1.0
    last: int | None = None

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if (self.function is None) == (not steps):
            both = "both" if steps else "neither"
            raise UserError(
                f"schedule: expected either points or a function, got {both}; use Schedule(((0, 0.5), (100, 1.0)))"
            )
        if any(a >= b for a, b in pairwise(steps)):
            raise UserError(f"schedule: expected steps that increase, got {steps}; use each step once, in order")

    def at(self, step: int | None) -> float:
        """Return the weight at a step; None is outside of training.

        Raises:
            UserError: the function returned NaN or an infinite number.
        """
        if step is None:
            step = self._step_outside_training()
        if self.function is not None:
            value = float(self.function(step))
        else:
            value = float(np.interp(step, [at for at, _ in self.points], [weight for _, weight in self.points]))
        if not math.isfinite(value):
            raise UserError(
                f"schedule: expected a finite weight of step {step}, got {value}; use a function that returns numbers"
            )
        return self.factor * value

    def _step_outside_training(self) -> int:
        if self.last is not None:
            return self.last
        return self.points[-1][0] if self.points else 0


@dataclass(frozen=True)
class Constraint:
    """A bound on the mean of a component, enforced by dual ascent on a multiplier; in a spec, `toxicity<=0.1@0.5`::

        weight = -s · multiplier,   multiplier <- max(0, multiplier + rate · s · (mean - bound))   after every step

    with s = 1 for an upper bound, -1 for a lower one. The multiplier begins at 0. The constant s · multiplier · bound
    of the Lagrangian is left out. It is the same for all samples of a step, and without it the total is the weighted
    sum of the logged components. Source: Tessler et al., Reward constrained policy optimization, arXiv 1805.11074.

    Attributes:
        bound: limit of the mean over a step's samples.
        upper: True for an upper bound, False for a lower one.
        rate: learning rate of the multiplier, above 0.

    Raises:
        UserError: the bound is not finite, or the rate is not above 0.

    Example:
        >>> bound = Constraint(0.5, rate=0.5)  # mean <= 0.5
        >>> multiplier = bound.updated(0.0, mean=1.0)
        >>> multiplier, bound.weight(multiplier)
        (0.25, -0.25)
    """

    bound: float
    upper: bool = True
    rate: float = _RATE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and 0 < self.rate < math.inf):
            raise UserError(
                f"constraint: expected a finite bound and a rate above 0, got {self.bound} and {self.rate}; "
                "use NAME<=0.1@0.5"
            )

    def weight(self, multiplier: float) -> float:
        """Return the component's weight for a multiplier, which is at least 0."""
        if multiplier == 0:  # 0.0 rather than -0.0
            return 0.0
        return -multiplier if self.upper else multiplier

    def updated(self, multiplier: float, mean: float) -> float:
        """Return the multiplier after a training step.

        Args:
            multiplier: its value during the step.
            mean: mean of the component over the step's samples; NaN leaves the multiplier unchanged.
        """
        violation = mean - self.bound if self.upper else self.bound - mean
        return multiplier if math.isnan(violation) else max(0.0, multiplier + self.rate * violation)


Weight = float | Schedule | Constraint


def as_weight(value: object, name: str) -> Weight:
    """Return the weight of reward `name` that a number, a text, a function of the step or a weight describes.

    Raises:
        UserError: the value is none of these.
    """
    if isinstance(value, Schedule | Constraint):
        return value
    if isinstance(value, str) and _POINTS.fullmatch(value):
        points = (point.split("@") for point in value.split(":"))
        return Schedule(tuple((int(step), float(weight)) for weight, step in points))
    if callable(value):
        return Schedule(function=value)
    try:
        weight = float(value)  # type: ignore[arg-type]  # other types raise, and are refused below
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"reward '{name}': expected a finite weight, got '{value}'; use a number, as in {name}=0.5")
    return weight


def multiply(first: Weight, second: Weight, name: str) -> Weight:
    """Return the product of two weights of reward `name`.

    Raises:
        UserError: neither is a number, or a constraint meets a number other than 1.
    """
    if isinstance(first, float) and isinstance(second, float):
        return first * second
    scheduled, factor = (second, first) if isinstance(first, float) else (first, second)
    if factor == 1.0:
        return scheduled
    if isinstance(scheduled, Schedule) and isinstance(factor, float):
        return Schedule(scheduled.points, scheduled.function, scheduled.factor * factor, scheduled.last)
    raise UserError(
        f"reward '{name}': expected no weight next to a constraint's multiplier or a schedule, got {factor}; "
        "use the weight 1"
    )


def split_bound(spec: str) -> tuple[str, Constraint | None]:
    """Return a spec without its bound, and the constraint.

    >>> split_bound("toxicity<=0.1@0.5")
    ('toxicity', Constraint(bound=0.1, upper=True, rate=0.5))
    """
    match = _BOUND.search(spec)
    if match is None:
        return spec, None
    side, bound, rate = match.groups()
    return spec[: match.start()], Constraint(float(bound), side == "<=", float(rate) if rate else _RATE)


def is_schedule(text: str) -> bool:
    """Return whether a text describes a schedule."""
    return _POINTS.fullmatch(text) is not None


def is_weight(text: str) -> bool:
    """Return whether a text is a number or describes a schedule."""
    try:
        float(text)
    except ValueError:
        return is_schedule(text)
    return True
