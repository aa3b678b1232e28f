"""Orders that do not depend on results: sequential and shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.types import IntArray


class Sequential:
    """The tasks in their own order: 0, 1, 2, ..., again from 0 after the last one.

    Args:
        size: number of tasks; None: unbounded.
        seed, options: not read.
    """

    def __init__(self, *, size: int | None, seed: int = 0, options: TaskOptions | None = None) -> None:
        self._size = size
        self._seed = seed
        self._position = 0

    def next(self, n: int) -> list[int]:
        """Return the numbers of the next n tasks."""
        numbers = [self._number(self._position + i) for i in range(n)]
        self._position += n
        return numbers

    def update(self, results: Sequence[tuple[int, TaskResult]]) -> None:
        """Do nothing: the order is fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position."""
        self._position = int(state["position"])

    def _number(self, position: int) -> int:
        return position if self._size is None else position % self._size


class Shuffled(Sequential):
    """A new permutation of the tasks per epoch; of an unbounded source, a counter from (seed mod 2^32) · 2^24.

    One number is the whole position: a resumed run continues at the same task.

    Args:
        size: number of tasks; None: unbounded.
        seed: of the permutations, or of the counter's start.
        options: not read.
    """

    def __init__(self, *, size: int | None, seed: int = 0, options: TaskOptions | None = None) -> None:
        super().__init__(size=size, seed=seed, options=options)
        self._order: tuple[int, IntArray] = (-1, np.empty(0, np.int64))  # epoch, and its permutation

    def _number(self, position: int) -> int:
        if self._size is None:
            return self._seed % 2**32 * 2**24 + position
        epoch, place = divmod(position, self._size)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size))
        return int(self._order[1][place])
