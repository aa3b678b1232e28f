"""Options of rewards come from the spec alone: a column of the same name never changes a score."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from rlalign.errors import MissingColumnError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.function import RewardFunction, as_reward
from rlalign.rewards.references import clashes, unusable_tasks
from rlalign.types import Task

SPECS = {"length": "length?target=3", "soft_overlong": "soft_overlong?limit=3"}
IN_PROCESS = [
    *("exact_match", "length", "too_short", "repetition", "distinct_n", "chrf", "json_valid", "copy_penalty"),
    *("soft_overlong", "rouge", "bleu", "coverage", "label_match", "embedding_f1"),
]


def values(spec: str, **columns: Any) -> Any:
    columns = {"answer": ["b", "a b a"], **columns}
    with compose(spec) as total:
        return total.score(
            "episode", ["p", "a a"], ["a b a", "a b a"], [[1, 2, 3], [1, 2, 3]], **columns
        ).total.tolist()


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_column_with_the_name_of_an_option_changes_nothing(name: str) -> None:
    options = REWARDS.get(name).options
    spec = SPECS.get(name, name)
    assert options
    for value in ("1", 0, [2]):
        assert values(spec, **{option: [value] * 2 for option in options}) == values(spec)


def plain(completions: list, answer: list | None = None, *, limit: int = 3, **columns: Any) -> list[float]:
    return [float(limit)] * len(completions)


def positional(completions: list, limit: int = 3) -> list[float]:
    return [float(limit)] * len(completions)


def of_columns(
    completions: list, *, answer: list, solution: Any = None, state: Any = None, **others: Any
) -> list[float]:
    return [float(a) for a in answer]


def required(completions: list, *, pattern: str | re.Pattern[str], mode: str | None = None) -> list[float]:
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "options", "columns"),
    [
        (plain, {"limit"}, ["answer"]),
        (positional, {"limit"}, []),
        (of_columns, set(), ["answer", "solution"]),
        (required, {"pattern", "mode"}, []),
        (lambda completions, **kwargs: [0.0], set(), []),
    ],
)
def test_options_and_columns_of_a_signature(
    function: Callable[..., Any], options: set[str], columns: list[str]
) -> None:
    reward = as_reward(function)
    assert reward.options == options
    assert reward.columns == columns


def test_a_clash_is_named() -> None:
    with compose(["length?target=3", "exact_match"]) as total:
        found = clashes(total, [Task("a", {"answer": "1"}), Task("b", {"unit": "kg", "ignore_case": "x"})])
    assert [sentence.partition(":")[0] for sentence in found] == [
        "the column 'unit' of the data is not read by the reward 'length', whose option has that name",
        "the column 'ignore_case' of the data is not read by the reward 'exact_match', whose option has that name",
    ]


class Counting:
    """A reward with state, an option and a callback of TRL."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, completions: list, answer: list, log_metric: Any, *, scale: float = 2.0) -> list[float]:
        self.calls += 1
        log_metric("calls", self.calls)
        return [scale * (text == a.strip()) for text, a in zip(completions, answer, strict=True)]

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_the_check_of_references_leaves_no_trace_in_a_reward() -> None:
    counting = Counting()
    tasks = [Task("a", {"answer": "1"}), Task("b", {"answer": 5, "scale": 7})]
    with compose(RewardFunction("counting", counting, timeout_s=None)) as total:
        assert "the column 'scale' of the data is not read by the reward 'counting'" in clashes(total, tasks)[0]
        reasons = unusable_tasks(total, tasks, lambda text: [1])
        assert total.pop_logged() == {}
        assert total.state_dict() == total.for_evaluation().state_dict()
        scores = total.score("episode", ["a"], ["1"], [[1]], answer=["1"], scale=[7])
        assert total.pop_logged() == {"counting/log/calls": 1.0}
    assert list(reasons) == [1]
    assert reasons[1].startswith("reward 'counting' cannot score it (answer 5): AttributeError")
    assert scores.total.tolist() == [2.0]


def test_an_option_that_is_missing_is_not_taken_from_a_column() -> None:
    with (
        compose("regex") as total,
        pytest.raises(MissingColumnError, match="got the column 'pattern', which"),
    ):
        total.score("episode", ["p"], ["c"], [[1]], pattern=["a"])
