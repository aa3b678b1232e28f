"""Difficulty pools: the running success, the shares of the pools, their floor, and the state."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from rlalign.envs.task_order.difficulty import DifficultyPools
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.errors import UserError
from rlalign.types import Task


def result(success: float, samples: int = 8) -> TaskResult:
    return TaskResult(Task("p"), success, success, samples)


def sampler_with(successes: list[float], **options: float) -> DifficultyPools:
    """Return a sampler of tasks each of which had one result of 100 samples."""
    pools = DifficultyPools(size=len(successes), seed=0, options=TaskOptions(**options))
    pools.update([(number, result(success, 100)) for number, success in enumerate(successes)])
    return pools


def test_the_running_success_is_a_posterior_mean_with_forgetting() -> None:
    pools = DifficultyPools(size=2, options=TaskOptions(decay=0.5))
    assert pools.success.tolist() == [0.5, 0.5]
    pools.update([(0, result(0.25)), (1, TaskResult(Task("q")))])  # no valid sample of the second one
    assert pools.success.tolist() == [3 / 10, 0.5]
    pools.update([(0, result(1.0))])
    assert pools.success[0] == (0.5 * 2 + 8 + 1) / (0.5 * 8 + 8 + 2)


@pytest.mark.parametrize("order", [1, -1])
def test_results_of_one_rollout_are_summed_in_any_order(order: int) -> None:
    pools = DifficultyPools(size=1, options=TaskOptions(decay=0.5))
    pools.update([(0, result(1.0, samples=2))])
    pools.update([(0, result(share)) for share in [0.0] * 8 + [1.0] * 8][::order])
    assert pools.success[0] == (0.5 * 2 + 64 + 1) / (0.5 * 2 + 128 + 2)


def test_pools_have_their_boundaries() -> None:
    pools = sampler_with([0.0, 0.1, 0.5, 0.7, 0.95, 1.0])
    assert {name: numbers.tolist() for name, numbers in pools.pools().items()} == {
        "easy": [4, 5],
        "medium": [2, 3],
        "hard": [0, 1],
    }


def test_each_pool_has_its_share_exactly_and_no_task_starves() -> None:
    pools = sampler_with([0.0] * 6 + [0.5] * 4 + [1.0] * 10, medium_share=0.7)
    counts = Counter(number for _ in range(50) for number in pools.next(8))
    totals = [sum(counts[n] for n in numbers) for numbers in (range(6), range(6, 10), range(10, 20))]
    for total, share in zip(totals, (0.15, 0.7, 0.15), strict=True):
        assert abs(total - 400 * share) < 1
    # within a pool every task is taken equally often
    for numbers in (range(6), range(6, 10), range(10, 20)):
        assert max(counts[n] for n in numbers) - min(counts[n] for n in numbers) <= 1


def test_the_share_of_an_empty_pool_goes_to_the_others() -> None:
    pools = sampler_with([0.0] * 3 + [1.0] * 3)
    counts = Counter("hard" if n < 3 else "easy" for n in pools.next(100))
    assert counts == {"hard": 50, "easy": 50}
    assert sorted(DifficultyPools(size=5).next(5)) == list(range(5))  # all are medium at first


def test_ties_are_broken_by_the_seed() -> None:
    orders = {tuple(DifficultyPools(size=8, seed=seed).next(8)) for seed in range(5)}
    assert len(orders) == 5


def test_it_continues_from_its_state() -> None:
    options = TaskOptions(decay=0.9)
    rng = np.random.default_rng(0)
    pools, resumed = (DifficultyPools(size=9, seed=3, options=options) for _ in range(2))
    for _ in range(7):
        pools.update([(number, result(float(rng.random()))) for number in pools.next(4)])
    resumed.load_state_dict(json.loads(json.dumps(pools.state_dict())))
    for _ in range(5):
        numbers = pools.next(4)
        assert resumed.next(4) == numbers
        for sampler in (pools, resumed):
            sampler.update([(number, result(number / 9)) for number in numbers])
    assert resumed.state_dict() == pools.state_dict()


def test_an_unbounded_source_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"expected a finite number of tasks.*--tasks.mixing difficulty"):
        DifficultyPools(size=None)
