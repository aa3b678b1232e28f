"""The interface of a task sampler: it numbers the next tasks, and learns their results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlalign.envs.task_order.options import TaskOptions
from rlalign.types import Task


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of the samples of one task in one rollout.

    Attributes:
        task: the task.
        reward: mean reward of the samples; NaN if none has a valid one.
        success: share of the samples that are successes, in [0, 1]; NaN if success is not defined.
        samples: number of samples with a valid reward.
    """

    task: Task
    reward: float = math.nan
    success: float = math.nan
    samples: int = 0


class TaskSampler(Protocol):
    """Numbers the tasks of one split in the order in which a run takes them.

    `tasks.order` names a class or function with these arguments, which returns one: `size`, the number of tasks or None
    for an unbounded source; `seed`; `options`, the settings `tasks.*`. Equal arguments and results give equal numbers.
    """

    def next(self, n: int) -> list[int]:
        """Return the numbers of the next n tasks, each from 0 to size - 1."""
        ...

    def update(self, results: Sequence[tuple[int, TaskResult]]) -> None:
        """Record the results of tasks, as (number, result), after their rollout."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        ...


class MakeSampler(Protocol):
    """What `tasks.order` names: makes a sampler of a split.

    An attribute `needs_success = True` declares that the sampler reads `TaskResult.success`.
    """

    def __call__(self, *, size: int | None, seed: int, options: TaskOptions) -> TaskSampler:
        """Return a sampler of a split."""
        ...
