"""Reference values of tasks against the rewards that read them, before the first step.

Records of one kind (a text, a number, a missing value, ...) are scored alike, so a few records of each kind are scored,
with their own references as the completions. If all records are of one kind, and no value is missing, nothing is
called: the first step would show an error at once. So the check calls no reward of a run whose data has no fault.

A function of a user is judged by what its signature names, and by failures alone: None can be due to the completion.
A kind is at fault if a batch of complete records can be scored, and the same batch with this kind fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlalign.errors import MissingColumnError, UserError
from rlalign.rewards.function import RewardFunction, is_built_in
from rlalign.rewards.guard import CallFailed, Guard
from rlalign.rewards.observed_call import Observer
from rlalign.rewards.weighted_sum import RewardSum, as_trl
from rlalign.types import Task, is_missing, reference_text

_ABSENT = "absent"
_APPLIES = "applies"
_PER_RECORD = ("json_fields", "span_f1", "span_iou")
"""Built-in rewards whose references have a format of their own: each record is checked."""
_GAPS = ("missing", "list of ")
_MOST_KINDS = 16  # kinds of records that are scored, since a call may cost time or money
_BATCH = 4  # most records of a batch that is scored


def unusable_tasks(reward: Any, tasks: Sequence[Task], encode: Any) -> dict[int, str]:
    """Return number -> reason of the tasks that the rewards cannot score.

    A task is unusable if a reward with `on_error="fail"` fails on it, or if no weighted reward applies to it.

    Args:
        reward: the composed reward; other objects than a `RewardSum` are not checked.
        tasks: usable apart from their references.
        encode: returns the token ids of a text.

    Raises:
        MissingColumnError: a reward needs a column that no task has.
    """
    functions = [f for f in reward.functions if f.scope != "group"] if isinstance(reward, RewardSum) else []
    if not functions or not tasks:
        return {}
    outcomes = [_outcomes(function, tasks, encode) for function in functions]
    reasons: dict[int, str] = {}
    for number in range(len(tasks)):
        values = [outcome[number] for outcome in outcomes]
        failure = next((value for value in values if value not in (_ABSENT, _APPLIES)), None)
        if failure is not None:
            reasons[number] = failure
        elif _APPLIES not in values:
            reasons[number] = _nothing_applies(functions, tasks[number])
    return reasons


def clashes(reward: Any, tasks: Sequence[Task]) -> list[str]:
    """Return a sentence for each column of the tasks that has the name of an option of a reward."""
    if not isinstance(reward, RewardSum):
        return []
    columns = set[str]().union(*(task.columns for task in tasks)) if tasks else set()
    return [
        f"the column '{name}' of the data is not read by the reward '{function.name}', whose option has that name: "
        f"options come from the spec alone; use {function.name}?{name}=VALUE to set it, or rename the column"
        for function in reward.functions
        for name in sorted(columns & function.options)
    ]


def _outcomes(function: RewardFunction, tasks: Sequence[Task], encode: Any) -> list[str]:
    """Return for each task whether the reward applies to it, or why it fails."""
    present = {name for task in tasks for name in task.columns}
    for name in function.columns:
        if function.requires(name) and name not in present:
            raise MissingColumnError(function.name, name, list(tasks[0].columns))
    names = [name for name in function.columns if name in present]
    kinds = [tuple(_kind(task.columns.get(name)) for name in names) for task in tasks]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(number)
    built_in = is_built_in(function.function)
    tolerated = function.on_error != "fail" and not built_in
    alike = len(groups) == 1 and not _gaps(kinds[0]) and function.name not in _PER_RECORD
    if not names or tolerated or alike:
        return [_APPLIES] * len(tasks)
    # an observer and a runner of its own: neither state nor logged values of the check reach the run
    observer = Observer(replace(function, function=_copied(function)))
    guard = Guard(observer.guarded())
    # rewards receive None for a column that only other tasks have
    columns = dict.fromkeys(name for task in tasks for name in task.columns)

    def outcome(numbers: Iterable[int]) -> str:
        return _outcome(observer, guard, [tasks[number] for number in numbers], columns, encode)

    try:
        if function.name in _PER_RECORD:
            return [outcome([number]) for number in range(len(tasks))]
        outcome_of = _of_built_in(groups, outcome) if built_in else _of_own(groups, outcome)
    finally:
        guard.close()
    return [outcome_of.get(kind, _APPLIES) for kind in kinds]


def _of_built_in(
    groups: Mapping[tuple[str, ...], list[int]], outcome: Callable[[Iterable[int]], str]
) -> dict[tuple[str, ...], str]:
    """Return the outcome of each kind for a reward of this library, which scores each record alone."""
    return {kind: outcome(groups[kind][:1]) for kind in _most_frequent(groups)}


def _of_own(
    groups: Mapping[tuple[str, ...], list[int]], outcome: Callable[[Iterable[int]], str]
) -> dict[tuple[str, ...], str]:
    """Return the outcome of each kind for a user's function, which may read the whole batch or the completions.

    Nothing is known if it fails on complete records: the first step shows why.
    """
    complete = min(groups, key=lambda kind: (_gaps(kind), -len(groups[kind])))
    # a batch has two records or more, as in training
    if outcome((groups[complete] * 2)[: max(2, min(_BATCH, len(groups[complete])))]) not in (_APPLIES, _ABSENT):
        return {}
    outcome_of = {}
    for kind in _most_frequent(groups):
        if kind != complete:
            failure = outcome([*(groups[complete] * 2)[: _BATCH // 2], *groups[kind][: _BATCH // 2]])
            outcome_of[kind] = _APPLIES if failure == _ABSENT else failure
    return outcome_of


def _most_frequent(groups: Mapping[tuple[str, ...], list[int]]) -> list[tuple[str, ...]]:
    return sorted(groups, key=lambda kind: -len(groups[kind]))[:_MOST_KINDS]


def _kind(value: Any) -> str:
    if is_missing(value):
        return "missing"
    if isinstance(value, list | tuple):
        return f"list of {', '.join(sorted({_kind(part) for part in value}))}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return "table" if isinstance(value, Mapping) else type(value).__name__


def _gaps(kind: tuple[str, ...]) -> int:
    return sum(part in _GAPS for part in kind)


def _copied(function: RewardFunction) -> Any:
    """Return a copy of a user's object in this process, so that its state does not change; else the function itself."""
    if function.timeout_s is not None or is_built_in(function.function):
        return function.function
    try:
        return copy.deepcopy(function.function)
    except Exception:  # an object that cannot be copied
        return function.function


def _outcome(observer: Observer, guard: Guard, tasks: Sequence[Task], names: Iterable[str], encode: Any) -> str:
    """Return whether the reward applies to the last one of a batch of tasks, or why the batch fails.

    Args:
        observer: of the reward.
        guard: runs it.
        tasks: the batch.
        names: columns of all tasks.
        encode: returns the token ids of a text.
    """
    function = observer.reward
    references = [task.columns.get("answer") for task in tasks]
    texts = ["" if is_missing(reference) else (reference_text(reference) or "") for reference in references]
    prompts = [task.prompt for task in tasks]
    columns = {
        **{name: [task.columns.get(name) for task in tasks] for name in names},
        **{"state": [{} for _ in tasks], "turns": [[text] for text in texts], "replies": [[] for _ in tasks]},
        **{"truncated": [False] * len(tasks), "completions_raw": texts},
        "prompts": prompts,
        "completions": as_trl(prompts, texts),
        "completion_ids": [encode(text) for text in texts],
    }
    try:
        values = observer.values(guard.call(observer.arguments(columns)), len(tasks))
    except (CallFailed, UserError) as error:
        if function.on_error != "fail" and isinstance(error, CallFailed):
            return _APPLIES  # the user has chosen what such a sample is worth
        reason = error.detail if isinstance(error, CallFailed) else str(error)
        read = ", ".join(f"{name} {tasks[-1].columns.get(name)!r:.60}" for name in function.columns)
        return f"reward '{function.name}' cannot score it ({read}): {reason}"
    absent = isinstance(values, list | tuple) and len(values) == len(tasks) and values[-1] is None
    return _ABSENT if absent else _APPLIES


def _nothing_applies(functions: Sequence[RewardFunction], task: Task) -> str:
    names = dict.fromkeys(name for function in functions for name in function.columns)
    missing = [name for name in names if is_missing(task.columns.get(name))] or list(names)
    listed = ", ".join(f"'{name}'" for name in missing) or "none"
    return (
        f"expected a value in the column {listed}, which the reward {', '.join(f.name for f in functions)} reads, got "
        f"{', '.join(repr(task.columns.get(name)) for name in missing) or 'none'}"
    )
