"""Weights of the environments of a mixture over training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.weights import Schedule

Weight = float | Schedule


@dataclass(frozen=True)
class Weights:
    """The weights of the environments of a mixture at each training step.

    Attributes:
        by_name: environment -> weight, a number of at least 0 or a schedule.
        given: the weights were stated; False: they are equal because none was.

    Raises:
        UserError: a weight is negative or not finite, or all are 0 at a step that a schedule names.

    Example:
        >>> weights = Weights({"new": 0.8, "former": Schedule(((0, 0.2), (100, 0.0)))})
        >>> weights.at(0), weights.at(50)
        ({'new': 0.8, 'former': 0.2}, {'new': 0.8, 'former': 0.1})
    """

    by_name: Mapping[str, Weight]
    given: bool = True

    def __post_init__(self) -> None:
        for step in sorted({0, *self.switches}):
            values = self._values(step)
            for name, value in values.items():
                if not (math.isfinite(value) and value >= 0):
                    raise UserError(
                        f"weight of environment '{name}': expected a number of at least 0, got {value:g} at step "
                        f"{step}; use {name}=0.5"
                    )
            if not any(values.values()):
                raise UserError(
                    f"weights of environments: expected one above 0 at each step, got none at step {step}; use a "
                    "weight above 0"
                )

    @property
    def switches(self) -> list[int]:
        """The steps that schedules name, in order."""
        schedules = [weight for weight in self.by_name.values() if isinstance(weight, Schedule)]
        return sorted({step for schedule in schedules for step, _ in schedule.points})

    def at(self, step: int, *, temperature: float | None = None, sizes: Mapping[str, int | None] | None = None) -> Any:
        """Return environment -> weight at a training step, a dictionary of floats.

        Args:
            step: the step, from 0.
            temperature: T; a weight w becomes w^(1/T). None: the weights as they are.
            sizes: environment -> number of its training tasks, which are the weights w if none were given.

        Raises:
            UserError: an environment without a given weight has no number of tasks.
        """
        values = self._values(step)
        if temperature is None:
            return values
        if not self.given:
            values = {name: _size(name, (sizes or {}).get(name)) for name in values}
        return {name: value ** (1 / temperature) if value else 0.0 for name, value in values.items()}

    def _values(self, step: int) -> dict[str, float]:
        return {
            name: weight.at(step) if isinstance(weight, Schedule) else float(weight)
            for name, weight in self.by_name.items()
        }


def _size(name: str, size: int | None) -> float:
    if size is None:
        raise UserError(
            f"tasks.temperature: expected a finite number of training tasks of '{name}', got an unbounded source; give "
            f"weights, as in --env '{name}=0.7,...'"
        )
    return float(size)


def stages(starts: Sequence[tuple[int, str]]) -> dict[str, Weight]:
    """Return the weights of environments that follow one another: 1 in its stages, else 0.

    Args:
        starts: (first step, environment) of each stage, in order; an environment may return.

    Raises:
        UserError: the first stage does not begin at step 0, or steps do not increase.

    Example:
        >>> first, second = stages([(0, "a"), (200, "b")]).values()
        >>> [(first.at(step), second.at(step)) for step in (0, 199, 200)]
        [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    """
    steps = [step for step, _ in starts]
    if steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
        raise UserError(
            f"stages of environments: expected steps that increase from 0, got {', '.join(map(str, steps))}; use "
            "a@0,b@200"
        )
    weights: dict[str, Weight] = {}
    for name in dict.fromkeys(name for _, name in starts):
        points: dict[int, float] = {}
        value = 0.0
        for step, owner in starts:
            if step:
                points[step - 1] = value  # a schedule is linear between points, and steps are whole numbers
            value = float(owner == name)
            points[step] = value
        weights[name] = Schedule(tuple(points.items()))
    return weights
