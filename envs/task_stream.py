"""The order in which a run takes the tasks of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlalign.envs.task_order.fixed import Sequential
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult, TaskSampler
from rlalign.errors import FaultError, UserError
from rlalign.registry import TASK_ORDERS
from rlalign.types import Split, Task, TaskSource

SHUFFLED = TaskOptions.order


class Tasks(Protocol):
    """An endless sequence of tasks with a state that a checkpoint holds: of one environment, or of a mixture."""

    @property
    def reads_results(self) -> bool:
        """Whether `update` changes the order."""
        ...

    def next(self, n: int, step: int = 0) -> list[Task]:
        """Return the next n tasks, in a training step."""
        ...

    def update(self, results: Sequence[TaskResult]) -> None:
        """Record the results of tasks that `next` has returned."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return what is logged about the order; names as in metrics.jsonl."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        ...


class TaskStream:
    """An endless, deterministic order of the tasks of one split, which a task sampler numbers.

    By default a finite split is taken in a new permutation per epoch, and an unbounded one by a counter. The state is
    that of the sampler: a resumed run continues at the same task.

    Args:
        source: of the tasks.
        split: train, validation or test.
        seed: of the sampler.
        options: `tasks.*`; its `order` names the sampler.

    Raises:
        UserError: the split is empty, or the order does not fit the source.
    """

    def __init__(
        self, source: TaskSource, split: Split = "train", seed: int = 0, options: TaskOptions | None = None
    ) -> None:
        self._source = source
        self._split: Split = split
        self._seed = seed
        self._size = source.size(split)
        if self._size == 0:
            raise UserError(f"expected {split} tasks, got a source that has no {split} tasks; use another split")
        options = options or TaskOptions()
        self._order = options.order
        self.sampler: TaskSampler = TASK_ORDERS.get(options.order)(size=self._size, seed=seed, options=options)
        self._numbers: dict[tuple[Split, int], int] = {}  # of the tasks whose results are not known yet

    @property
    def reads_results(self) -> bool:
        """Whether the sampler reads results; fixed orders and those that inherit their `update` do not."""
        return getattr(type(self.sampler), "update", None) is not Sequential.update

    def next(self, n: int, step: int = 0) -> list[Task]:
        """Return the next n tasks.

        Args:
            n: number of tasks.
            step: the training step, from 0; the order does not depend on it.
        """
        numbers = self.sampler.next(n)
        tasks = [self._source.get(self._split, number) for number in numbers]
        if self.reads_results:
            # a source may number its tasks otherwise, as one that leaves out records does
            self._numbers |= {(task.split, task.index): number for task, number in zip(tasks, numbers, strict=True)}
        return tasks

    def update(self, results: Sequence[TaskResult]) -> None:
        """Record the results of tasks that `next` has returned.

        Args:
            results: one per task.
        """
        if not self.reads_results:
            return
        self.sampler.update([(self._numbers[result.task.split, result.task.index], result) for result in results])
        self._numbers.clear()

    def metrics(self) -> dict[str, float]:
        """Return tasks/easy, tasks/medium and tasks/hard, the numbers of tasks in the pools, if there are pools."""
        pools: Mapping[str, Sequence[int]] = getattr(self.sampler, "pools", dict)()
        return {f"tasks/{name}": float(len(members)) for name, members in pools.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs, as JSON values."""
        state = {"split": self._split, "seed": self._seed, "size": self._size}
        if self._order == SHUFFLED:  # the form that runs of before other orders have
            return {**state, **self.sampler.state_dict()}
        return {**state, "order": self._order, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            FaultError: the state belongs to another split, seed, number of tasks or order.
        """
        if "parts" in state:
            raise FaultError("cannot resume the order of tasks: it was that of a mixture of environments")
        own = {"split": self._split, "seed": self._seed, "size": self._size, "order": self._order}
        for name, value in own.items():
            old = state.get(name, SHUFFLED)
            if old != value:
                raise FaultError(f"cannot resume the order of tasks: its {name} was {old}, now it is {value}")
        self.sampler.load_state_dict(state if self._order == SHUFFLED else state["sampler"])
