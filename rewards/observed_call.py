"""Calls of rewards that do more than return values: objects with state, and functions that use TRL's log callbacks.

The state of an object stays in this process: each call gets a copy and returns the state after it. A failed attempt, a
worker that was killed and an evaluation therefore leave no trace in the state of training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlalign.errors import RewardError
from rlalign.rewards.function import RewardFunction, is_built_in
from rlalign.rewards.object_state import (
    as_plain,
    attributes_of,
    from_checkpoint,
    has_state_methods,
    owner_of,
    to_checkpoint,
)
from rlalign.rewards.worker_process import call

STATE_IS_SHARED = (
    "changed the attributes of its object between calls: training and evaluation share them, and no checkpoint has "
    "them; if the values depend on them, add state_dict and load_state_dict"
)
"""What is wrong with an object that changes and has no `state_dict`."""
_STATE = "rlalign_state"  # keyword that carries the state to the call


@dataclass
class Returned:
    """Result of an observed call.

    Attributes:
        values: result of the function.
        state: state of the object after the call; None without `state_dict`.
        attributes: description of the attributes of an object without `state_dict`; empty for a function.
        metrics: name -> values that the function passed to `log_metric`.
        extra: column -> values that the function passed to `log_extra`.
    """

    values: Any
    state: Any = None
    attributes: str = ""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)


class ObservedCall:
    """A function that returns `Returned`. It takes the place of the reward's function, here or in a worker.

    Args:
        function: of the reward.
        callbacks: those of "log_metric" and "log_extra" that the function takes.
    """

    def __init__(self, function: Any, callbacks: Sequence[str]) -> None:
        self.func = function  # named as in functools.partial, so that a worker finds the function's module
        self._callbacks = callbacks

    def __call__(self, **arguments: Any) -> Returned:
        """Call the function with the state and the callbacks."""
        returned = Returned(None)
        owner = owner_of(self.func)
        if has_state_methods(owner):
            owner.load_state_dict(as_plain(arguments.pop(_STATE)))

        def log_metric(name: str, value: float) -> None:
            returned.metrics.setdefault(str(name), []).append(float(value))

        def log_extra(column: str, values: Sequence[Any]) -> None:
            returned.extra[str(column)] = list(values)

        loggers = {"log_metric": log_metric, "log_extra": log_extra}
        returned.values = call(self.func, (), arguments | {name: loggers[name] for name in self._callbacks})
        if has_state_methods(owner):
            returned.state = as_plain(owner.state_dict())
        else:
            returned.attributes = attributes_of(owner)
        return returned


class Observer:
    """What the calls of one reward leave in this process: the state of its object, logged metrics and columns.

    Args:
        reward: the reward.

    Attributes:
        reward: the reward.
        extra: column -> the values that the last call logged, one per sample.
        changes: the object has no `state_dict`, and its attributes changed in a call after the first one.
    """

    def __init__(self, reward: RewardFunction) -> None:
        self.reward = reward
        owner = owner_of(reward.function)
        self._stateful = has_state_methods(owner)
        self._observes = self._stateful or bool(reward.callbacks) or not (owner is None or is_built_in(owner))
        state = as_plain(owner.state_dict(), f"state_dict of reward '{reward.name}'") if self._stateful else None
        self._state = self._initial = self._before_step = state
        self._attributes: str | None = None
        self._metrics: dict[str, list[float]] = {}
        self.extra: dict[str, list[Any]] = {}
        self.changes = False

    def guarded(self) -> RewardFunction:
        """Return the reward to run: with `ObservedCall` as its function if there is something to observe."""
        if not self._observes:
            return self.reward
        return replace(self.reward, function=ObservedCall(self.reward.function, self.reward.callbacks))

    def arguments(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords of one call, with the state if there is one."""
        arguments = self.reward.arguments(columns)
        return arguments | {_STATE: self._state} if self._stateful else arguments

    def values(self, returned: Any, count: int) -> Any:
        """Return the values of a call's result, and keep the rest.

        Args:
            returned: the result.
            count: number of samples.

        Raises:
            RewardError: a logged column has another number of values.
        """
        if not isinstance(returned, Returned):
            return returned
        self._state = returned.state
        for column, values in returned.extra.items():
            if len(values) != count:
                raise RewardError(
                    f"reward '{self.reward.name}': expected {count} values for log_extra('{column}'), got "
                    f"{len(values)}; use one per completion"
                )
        self.extra = returned.extra
        for name, numbers in returned.metrics.items():
            self._metrics.setdefault(name, []).extend(numbers)
        # The first call may load a model or fill a cache.
        self.changes |= self._attributes is not None and self._attributes != returned.attributes
        self._attributes = returned.attributes
        return returned.values

    def pop_metrics(self) -> dict[str, float]:
        """Return name -> mean of the values logged since the last call, and forget them."""
        metrics = {name: float(np.mean(numbers)) for name, numbers in self._metrics.items()}
        self._metrics = {}
        return metrics

    # ---- state ----

    def fresh(self) -> Observer:
        """Return an observer of the same reward in its initial state."""
        copied = copy.copy(self)
        copied._state = copied._before_step = self._initial
        copied._metrics = {}
        return copied

    def begin_step(self) -> None:
        """Remember the state before a training step."""
        self._before_step = self._state

    def abandon_step(self) -> None:
        """Restore the state before the training step."""
        self._state = self._before_step
        self._metrics = {}

    def state_dict(self) -> Any:
        """Return the state for a checkpoint; None without one."""
        return to_checkpoint(self._state) if self._stateful else None

    def load_state_dict(self, stored: Any) -> None:
        """Restore a state that `state_dict` returned."""
        if self._stateful:
            self._state = self._before_step = from_checkpoint(stored)
