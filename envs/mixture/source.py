"""The tasks of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rlalign.errors import UserError
from rlalign.types import Split, Task, TaskSource


class MixtureSource:
    """The tasks of several environments, each with the name of its environment; they keep their own index.

    If all sources are finite, the tasks of the first come first, then those of the second, ...; otherwise the
    environments take turns, and a finite one begins again after its last task. The shares of a run are those of
    `rlalign.envs.mixture.stream`.

    Args:
        sources: environment -> its tasks.

    Raises:
        UserError: the mixture has no environment.
    """

    def __init__(self, sources: Mapping[str, TaskSource]) -> None:
        if not sources:
            raise UserError("a mixture: expected at least one environment, got none; use a=0.7,b=0.3")
        self.sources = dict(sources)
        self.distinct = all(getattr(source, "distinct", True) for source in sources.values())

    @property
    def dropped(self) -> int:
        """The number of records that are left out."""
        return sum(getattr(source, "dropped", 0) for source in self.sources.values())

    def size(self, split: Split) -> int | None:
        """Return the number of tasks of a split; None if one of the sources is unbounded."""
        total = 0
        for source in self.sources.values():
            size = source.size(split)
            if size is None:
                return None
            total += size
        return total

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Raises:
            IndexError: the index is negative or past the end.
        """
        if index < 0:
            raise IndexError(f"task {index} in split '{split}'")
        if self.size(split) is None:
            number, turn = divmod(index, len(self.sources))
            name = list(self.sources)[turn]
            size = self.sources[name].size(split)
            return tagged(name, self.sources[name].get(split, number if size is None else number % size))
        start = 0
        for name, source in self.sources.items():
            size = source.size(split) or 0
            if index < start + size:
                return tagged(name, source.get(split, index - start))
            start += size
        raise IndexError(f"task {index} of {start} in split '{split}'")


def tagged(name: str, task: Task) -> Task:
    """Return a task with the name of its environment."""
    return replace(task, env=name)
