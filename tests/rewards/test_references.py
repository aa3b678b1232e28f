"""The check of references never refuses records that a user's reward can score in training."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from rlalign.rewards import compose
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.references import unusable_tasks
from rlalign.types import Task


def refused(function: Callable[..., Any], tasks: list[Task], **settings: Any) -> list[int]:
    """The numbers of the tasks that cannot be used with a reward that runs in this process."""
    with compose(RewardFunction("own", function, **{"timeout_s": None, **settings})) as total:
        return list(unusable_tasks(total, tasks, lambda text: [1]))


def tasks_of(*answers: Any, **columns: list[Any]) -> list[Task]:
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(answers))]
    return [Task("p", {"answer": answer, **row}) for answer, row in zip(answers, rows, strict=True)]


def tagged(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 if "<answer>" in text else None for text in completions]


def tagged_answer(completions: list[str], answer: list[Any], note: list[Any]) -> list[float | None]:
    return tagged(completions)


def standardized(completions: list[str], answer: list[Any], note: list[Any]) -> list[float]:
    lengths = [len(text) for text in completions]
    return [length / (statistics.stdev(lengths) + 1) for length in lengths]


@pytest.mark.parametrize("function", [tagged, tagged_answer, standardized])
@pytest.mark.parametrize("answers", [("1", "22"), (1, 2.5), ("1", 5)])
def test_a_column_with_a_gap_refuses_no_record_of_a_right_reward(
    function: Callable[..., Any], answers: tuple[Any, Any]
) -> None:
    assert refused(function, tasks_of(*answers, note=["n", None])) == []


def test_only_the_kind_that_fails_beside_complete_records_is_refused() -> None:
    def needs_note(completions: list[str], note: list[Any]) -> list[float]:
        return [float(len(value)) for value in note]

    def fails(completions: list[str], note: list[Any]) -> list[float]:
        raise ValueError("the key of a service is missing")

    tasks = tasks_of("1", "2", "3", note=["n", None, "m"])
    assert refused(needs_note, tasks) == [1]
    assert refused(needs_note, tasks, on_error="drop") == []
    assert refused(fails, tasks) == []


def test_columns_that_the_signature_does_not_name_are_not_probed() -> None:
    calls: list[int] = []

    def paid(completions: list[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        return [0.0] * len(completions)

    assert refused(paid, tasks_of("1", "2", note=["n", None])) == []
    assert calls == []


def test_sparse_columns_need_few_calls() -> None:
    calls: list[int] = []

    def paid(completions: list[str], a: list, b: list, c: list, d: list, e: list, f: list) -> list[float]:
        calls.append(len(completions))
        return [0.0] * len(completions)

    rows = [{name: "x" if number >> i & 1 else None for i, name in enumerate("abcdef")} for number in range(64)]
    assert refused(paid, [Task("p", row) for row in rows]) == []
    assert len(calls) <= 17
    assert min(calls) >= 2


def test_a_failure_that_a_retry_mends_refuses_nothing() -> None:
    calls: list[int] = []

    def flaky(completions: list[str], answer: list[Any]) -> list[float]:
        calls.append(len(completions))
        if len(calls) % 2:
            raise ConnectionError("reset")
        return [0.0] * len(completions)

    assert refused(flaky, tasks_of("1", None)) == []
