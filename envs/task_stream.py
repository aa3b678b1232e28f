"""The order in which a run takes the tasks of a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlalign.errors import FaultError, UserError
from rlalign.types import IntArray, Split, Task, TaskSource


class TaskStream:
    """An endless, deterministic order of the tasks of one split.

    A finite split is taken in a new permutation per epoch. An unbounded split is taken by a counter that starts at
    (seed mod 2^32) · 2^24. One number is the whole position: a resumed run continues at the same task.

    Args:
        source: of the tasks.
        split: train, validation or test.
        seed: of the permutations, or of the counter's start.

    Raises:
        UserError: the split is empty.
    """

    def __init__(self, source: TaskSource, split: Split = "train", seed: int = 0) -> None:
        self._source = source
        self._split: Split = split
        self._seed = seed
        self._position = 0
        self._size = source.size(split)
        self._order: tuple[int, IntArray] = (-1, np.empty(0, np.int64))  # epoch, and its permutation
        if self._size == 0:
            raise UserError(f"expected {split} tasks, got a source that has no {split} tasks; use another split")

    def next(self, n: int) -> list[Task]:
        """Return the next n tasks."""
        tasks = [self._source.get(self._split, self._index(self._position + i)) for i in range(n)]
        self._position += n
        return tasks

    def _index(self, position: int) -> int:
        if self._size is None:
            return self._seed % 2**32 * 2**24 + position
        epoch, place = divmod(position, self._size)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size))
        return int(self._order[1][place])

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs, as JSON values."""
        return {"split": self._split, "seed": self._seed, "size": self._size, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            FaultError: the state belongs to another split, seed or number of tasks.
        """
        for name, value in self.state_dict().items():
            if name != "position" and state[name] != value:
                raise FaultError(f"cannot resume the order of tasks: its {name} was {state[name]}, now it is {value}")
        self._position = int(state["position"])
