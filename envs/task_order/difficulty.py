"""Difficulty pools: easy, medium and hard tasks by their running success, each pool with a share of the prompts.

A group of samples has a policy gradient only if its rewards differ. With success probability p, the variance of a
success is p (1 - p): tasks near 1/2 teach most, tasks near 0 or 1 almost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.envs.task_order.exact_shares import ExactShares
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.errors import UserError
from rlalign.types import IntArray

POOLS = ("easy", "medium", "hard")


class DifficultyPools:
    """A sampler that takes most tasks from those whose success is neither rare nor certain.

    The running success of a task is the posterior mean of a Beta-Bernoulli model with a uniform prior and forgetting:

        s <- decay · s + successes,   t <- decay · t + samples,   p = (s + 1) / (t + 2)

    once per rollout, with the sums over the task's samples in it. A task is easy from `options.easy` on, hard below
    `options.hard`, else medium; one without a sample has p = 1/2. The
    medium pool has `options.medium_share` of the prompts, the others half of the rest each, exactly
    (`ExactShares`); an empty pool's share goes to the others in proportion. So a pool that has tasks has at least
    (1 - medium_share) / 2 of the prompts. In a pool the task that was not taken for longest is next, so that each task
    returns; ties are broken by a permutation that the seed draws.

    Args:
        size: number of tasks.
        seed: of the permutation.
        options: `tasks.*`.

    Raises:
        UserError: the source is unbounded, so that no task would be taken twice.
    """

    needs_success = True

    def __init__(self, *, size: int | None, seed: int = 0, options: TaskOptions | None = None) -> None:
        if size is None:
            raise UserError(
                "tasks.order difficulty: expected a finite number of tasks, got an unbounded source, which draws no "
                "task twice and so has no running success of a task; use levels as environments, as in --env "
                "'sort?max_length=2,sort?max_length=4' --tasks.mixing difficulty, or a data file"
            )
        self._options = options or TaskOptions()
        self._rank = np.random.default_rng([seed, size]).permutation(size)
        self._successes = np.zeros(size)
        self._samples = np.zeros(size)
        self._last: IntArray = np.zeros(size, np.int64)  # place of the last time that the task was taken, from 1
        self._position = 0
        self._shares = ExactShares(len(POOLS))

    @property
    def success(self) -> Any:
        """The running success of each task, float [size]."""
        return (self._successes + 1) / (self._samples + 2)

    def pools(self) -> dict[str, IntArray]:
        """Return easy, medium and hard -> the numbers of the tasks in the pool."""
        success = self.success
        easy = success >= self._options.easy
        hard = success < self._options.hard
        members = (easy, ~easy & ~hard, hard)
        return {name: np.flatnonzero(inside) for name, inside in zip(POOLS, members, strict=True)}

    def next(self, n: int) -> list[int]:
        """Return the numbers of the next n tasks."""
        pools = list(self.pools().values())
        rest = (1 - self._options.medium_share) / 2
        shares = (rest, self._options.medium_share, rest)
        weights = [share if len(pool) else 0.0 for share, pool in zip(shares, pools, strict=True)]
        places = [self._shares.take(weights) for _ in range(n)]
        waiting = [iter(self._longest_unseen(pool, places.count(i))) for i, pool in enumerate(pools)]
        numbers = [next(waiting[place]) for place in places]
        for number in numbers:
            self._position += 1
            self._last[number] = self._position
        return numbers

    def update(self, results: Sequence[tuple[int, TaskResult]]) -> None:
        """Record the successes of a rollout's tasks; a result without a valid sample changes nothing.

        Results of one task are summed before its former ones fade, so that their order does not matter.
        """
        totals: dict[int, tuple[float, int]] = {}
        for number, result in results:
            if result.samples and not np.isnan(result.success):
                successes, samples = totals.get(number, (0.0, 0))
                totals[number] = (successes + result.success * result.samples, samples + result.samples)
        decay = self._options.decay
        for number, (successes, samples) in totals.items():
            self._successes[number] = decay * self._successes[number] + successes
            self._samples[number] = decay * self._samples[number] + samples

    def _longest_unseen(self, pool: IntArray, count: int) -> list[int]:
        """Return `count` tasks of a pool, those that were not taken for longest first; all again if it has fewer."""
        if not count:
            return []
        keys = self._last[pool] * len(self._rank) + self._rank[pool]
        first = min(count, len(pool))
        nearest = np.argpartition(keys, first - 1)[:first]  # without sorting the whole pool
        ordered: list[int] = pool[nearest[np.argsort(keys[nearest])]].tolist()
        return (ordered * -(-count // first))[:count]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the tasks that were taken, as JSON values."""
        visited = np.flatnonzero(self._last)
        return {
            "position": self._position,
            "tasks": visited.tolist(),
            "last": self._last[visited].tolist(),
            "successes": self._successes[visited].tolist(),
            "samples": self._samples[visited].tolist(),
            "shares": self._shares.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._position = int(state["position"])
        for values, name in ((self._last, "last"), (self._successes, "successes"), (self._samples, "samples")):
            values[:] = 0
            values[np.array(state["tasks"], np.int64)] = state[name]
        self._shares.load_state_dict(state["shares"])
