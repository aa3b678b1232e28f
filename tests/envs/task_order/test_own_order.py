"""An order of a user's own that derives from a built-in one: whether it reads results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rlalign.envs.registration import make_mdp
from rlalign.envs.task_order.fixed import Sequential, Shuffled
from rlalign.envs.task_order.options import TaskOptions
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.envs.task_stream import TaskStream
from rlalign.errors import UserError
from rlalign.registry import TASK_ORDERS

ROWS = [{"prompt": f"{i}", "answer": str(i)} for i in range(40)]


class Learning(Shuffled):
    """Keeps the results that it was told."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.told: list[tuple[int, float]] = []

    def update(self, results: Sequence[tuple[int, TaskResult]]) -> None:
        """Record rewards."""
        self.told += [(number, result.reward) for number, result in results]


class Fixed(Sequential):
    """Another name for the order of the data."""


def stream_of(order: str) -> TaskStream:
    return TaskStream(make_mdp(ROWS, rewards="exact_match").source, options=TaskOptions(order=order))


def test_an_update_of_its_own_is_told_the_results() -> None:
    stream = stream_of(f"{__name__}:Learning")
    assert stream.reads_results
    tasks = stream.next(3)
    stream.update([TaskResult(task, reward) for task, reward in zip(tasks, (0.0, 0.5, 1.0), strict=True)])
    assert isinstance(stream.sampler, Learning)
    assert [reward for _, reward in stream.sampler.told] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("order", ["sequential", "shuffled", f"{__name__}:Fixed"])
def test_an_inherited_update_reads_nothing(order: str) -> None:
    assert not stream_of(order).reads_results


def test_an_unknown_order_is_refused_with_the_form_of_an_own_one() -> None:
    with pytest.raises(UserError, match=r"unknown task order 'hard'.*A task sampler of your own is FILE.py:NAME\."):
        TASK_ORDERS.get("hard")
