"""Rewards of a file outside of sys.path, in their workers: partial functions, objects and bound methods."""

from pathlib import Path

import pytest

from rlalign.registry import load
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.guard import Guard, setup_of
from rlalign.rewards.observed_call import Observer

SOURCE = """
import functools


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, completions, **columns):
        return [self.factor * len(text) for text in completions]

    def score(self, completions, **columns):
        return self(completions)


def scaled(completions, scale, **columns):
    return scale(completions)


instance = Scale(2.0)
method = Scale(2.0).score
partial_of_object = functools.partial(Scale(2.0))
partial_of_method = functools.partial(Scale(2.0).score)
partial_with_object = functools.partial(scaled, scale=Scale(2.0))
built_in_with_object = functools.partial(map, Scale(2.0))
"""


@pytest.mark.parametrize(
    "name",
    ["instance", "method", "partial_of_object", "partial_of_method", "partial_with_object", "built_in_with_object"],
)
def test_a_worker_gets_the_file_of_each_form(tmp_path: Path, name: str) -> None:
    path = tmp_path / "wrapped.py"
    path.write_text(SOURCE)
    reward = Observer(RewardFunction("own", load(f"{path}:{name}"))).guarded()
    assert str(path) in [file for _, file in setup_of(reward.function)["modules"]]


def test_a_partial_of_an_object_runs_in_its_worker(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.py"
    path.write_text(SOURCE)
    observer = Observer(RewardFunction("own", load(f"{path}:partial_of_object"), retries=0))
    guard = Guard(observer.guarded())
    try:
        assert observer.values(guard.call({"completions": ["a", "bb"]}), 2) == [2.0, 4.0]
    finally:
        guard.close()
