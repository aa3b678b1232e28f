"""Task sources without the records that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from rlalign.errors import RecordError, UserError
from rlalign.types import IntArray, Split, Task, TaskSource

_STRIDE = 2**44  # between the draws that replace one task; the indices of a run lie below
_MAX_DRAWS = 1_000  # until the source is given up


class KeptTasks:
    """A finite source without some of its tasks. The others keep their own index.

    Args:
        source: of all tasks.
        dropped: split and index of the tasks that are left out.

    Attributes:
        dropped: number of tasks that are left out.
    """

    def __init__(self, source: TaskSource, dropped: Iterable[tuple[Split, int]]) -> None:
        self._source = source
        self._kept: dict[Split, IntArray] = {}
        left_out: dict[Split, set[int]] = {}
        for split, index in dropped:
            left_out.setdefault(split, set()).add(index)
        for split, indices in left_out.items():
            self._kept[split] = np.array([i for i in range(source.size(split) or 0) if i not in indices], np.int64)
        self.dropped = sum(map(len, left_out.values()))
        self.distinct = getattr(source, "distinct", True)

    def size(self, split: Split) -> int | None:
        """Return the number of tasks of a split that are kept."""
        return len(self._kept[split]) if split in self._kept else self._source.size(split)

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of those that are kept.

        Raises:
            IndexError: the index is past the end.
        """
        if split not in self._kept:
            return self._source.get(split, index)
        if not 0 <= index < len(self._kept[split]):
            raise IndexError(f"task {index} of {len(self._kept[split])} in split '{split}'")
        return self._source.get(split, int(self._kept[split][index]))


class RedrawnTasks:
    """An unbounded source, whose tasks are checked when they are drawn. One that cannot be used is drawn again.

    Args:
        source: of the tasks.
        check: raises RecordError for a task that cannot be used.

    Attributes:
        dropped: number of different tasks that were drawn again so far.
    """

    def __init__(self, source: TaskSource, check: Callable[[Task], object]) -> None:
        self._source = source
        self._check = check
        self._seen: set[tuple[Split, int]] = set()
        self.distinct = getattr(source, "distinct", True)

    @property
    def dropped(self) -> int:
        """The number of different tasks that were drawn again so far."""
        return len(self._seen)

    def size(self, split: Split) -> int | None:
        """Return the number of tasks of a split; None if it is unbounded."""
        return self._source.size(split)

    def get(self, split: Split, index: int) -> Task:
        """Return task `index`, or the first one that can be used among those that replace it.

        Raises:
            UserError: none of 1,000 draws can be used; the message has the last reason.
        """
        error: RecordError | None = None
        for draw in range(_MAX_DRAWS):
            try:
                task = self._source.get(split, index + draw * _STRIDE)
                self._check(task)
                return task
            except RecordError as failure:
                self._seen.add((split, index + draw * _STRIDE))
                error = failure
        raise UserError(f"expected a task that can be used in {_MAX_DRAWS} draws, got none: {error}")
