"""The order of the tasks of a run: of one environment, or of a mixture with exact shares or difficulty pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.source import tagged
from rlalign.envs.task_order.difficulty import DifficultyPools
from rlalign.envs.task_order.exact_shares import ExactShares
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.envs.task_stream import Tasks, TaskStream
from rlalign.errors import FaultError, UserError
from rlalign.types import Split, Task


def task_stream(mdp: TextMDP, split: Split = "train", *, seed: int = 0, options: TaskOptions | None = None) -> Tasks:
    """Return the order in which a run takes the tasks of an environment or of a mixture.

    Args:
        mdp: the environment.
        split: train, validation or test.
        seed: of the order.
        options: `tasks.*`.

    Raises:
        UserError: a split is empty, or the order or the shares do not fit the environment.

    Example:
        >>> from rlalign.envs.registration import make_mdp
        >>> stream = task_stream(make_mdp("sort=0.75,reverse=0.25"))
        >>> [task.env for task in stream.next(4)]
        ['sort', 'sort', 'sort', 'reverse']
    """
    if isinstance(mdp, Mixture):
        return MixtureStream(mdp, split, seed, options)
    return TaskStream(mdp.source, split, seed, options)


class MixtureStream:
    """An endless order of the tasks of a mixture: which environment is next, and which of its tasks.

    The shares of the environments are those of the mixture's weights at each step, exactly (see `ExactShares`); or,
    with `tasks.mixing` difficulty, those of difficulty pools over the environments. Each environment has a `TaskStream`
    of its own.

    Args:
        mdp: the mixture.
        split: train, validation or test.
        seed: of the order.
        options: `tasks.*`.

    Raises:
        UserError: as for `task_stream`.
    """

    def __init__(self, mdp: Mixture, split: Split = "train", seed: int = 0, options: TaskOptions | None = None) -> None:
        options = options or TaskOptions()
        self._weights = mdp.weights
        self._temperature = options.temperature
        self._sizes = {name: part.source.size(split) for name, part in mdp.parts.items()}
        self.streams = {name: TaskStream(part.source, split, seed, options) for name, part in mdp.parts.items()}
        self._names = list(self.streams)
        self._shares = ExactShares(len(self._names))
        self._pools: DifficultyPools | None = None
        if options.mixing == "difficulty":
            if mdp.weights.given or options.temperature is not None:
                raise UserError(
                    "tasks.mixing difficulty: expected environments without weights and no tasks.temperature, got one "
                    f"of these for {mdp.id}; use --env '{','.join(self._names)}', or --tasks.mixing weights"
                )
            self._pools = DifficultyPools(size=len(self._names), seed=seed, options=options)
        else:
            self._weights_at(0)  # a size that is missing is an error before the first step

    @property
    def reads_results(self) -> bool:
        """Whether the shares or the order of an environment depend on results."""
        return self._pools is not None or any(stream.reads_results for stream in self.streams.values())

    def next(self, n: int, step: int = 0) -> list[Task]:
        """Return the next n tasks.

        Args:
            n: number of tasks.
            step: the training step, from 0, whose weights hold.
        """
        if self._pools is not None:
            numbers = self._pools.next(n)
        else:
            weights = self._weights_at(step)
            numbers = [self._shares.take(weights) for _ in range(n)]
        envs = [self._names[number] for number in numbers]
        tasks = {name: iter(self.streams[name].next(envs.count(name), step)) for name in dict.fromkeys(envs)}
        return [tagged(name, next(tasks[name])) for name in envs]

    def update(self, results: Sequence[TaskResult]) -> None:
        """Record the results of tasks that `next` has returned.

        Args:
            results: one per task.
        """
        if self._pools is not None:
            self._pools.update([(self._names.index(result.task.env), result) for result in results])
        for name, stream in self.streams.items():
            own = [result for result in results if result.task.env == name]
            if own:
                stream.update(own)

    def metrics(self) -> dict[str, float]:
        """Return the sizes of the pools over environments, or the sum of those of the environments."""
        if self._pools is not None:
            return {f"tasks/{name}": float(len(members)) for name, members in self._pools.pools().items()}
        total: dict[str, float] = {}
        for stream in self.streams.values():
            for name, value in stream.metrics().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs, as JSON values."""
        return {
            "parts": {name: stream.state_dict() for name, stream in self.streams.items()},
            "shares": self._shares.state_dict(),
            "pools": None if self._pools is None else self._pools.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            FaultError: the state belongs to other environments or another order.
        """
        old = list(state.get("parts", ["one environment"]))
        if old != self._names:
            raise FaultError(
                f"cannot resume the order of tasks: it was of {', '.join(old)}, now it is of {', '.join(self._names)}"
            )
        if (state["pools"] is None) != (self._pools is None):
            raise FaultError("cannot resume the order of tasks: tasks.mixing was another one")
        for name, stream in self.streams.items():
            stream.load_state_dict(state["parts"][name])
        self._shares.load_state_dict(state["shares"])
        if self._pools is not None:
            self._pools.load_state_dict(state["pools"])

    def _weights_at(self, step: int) -> list[float]:
        weights = self._weights.at(step, temperature=self._temperature, sizes=self._sizes)
        return [weights[name] for name in self._names]
