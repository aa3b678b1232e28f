"""The initial context of a task: its columns and its prompt within the limits of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.envs.records.prompts import as_prompt
from rlalign.envs.records.values import shown
from rlalign.errors import RecordError, RLAlignError
from rlalign.types import Split, Task, TaskSource

_RESERVED = {
    *("self", "event", "prompts", "completions", "completion_ids"),
    *("state", "turns", "replies", "truncated", "group_ids", "completions_raw"),
}
"""Keyword arguments that every reward function receives; a task's column of the same name would overwrite one."""


def place_of(task: Task) -> str:
    """Return the place of a task for messages: that of its record, or its split and index."""
    return task.place or f"{task.split} task {task.index}"


def task_at(source: TaskSource, split: Split, index: int) -> Task:
    """Return a task of a source. Raises RecordError if the record is at fault, or the source itself raises."""
    try:
        return source.get(split, index)
    except RLAlignError:
        raise
    except Exception as error:  # of a source that a user wrote
        reason = f"the source failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise RecordError(f"{split} task {index}", reason) from error


def check_columns(task: Task) -> None:
    """Raise RecordError if a column has a name that rewards receive already."""
    if clashes := _RESERVED.intersection(task.columns):
        raise RecordError(
            place_of(task),
            f"expected columns that rewards do not receive already, got column '{min(clashes)}'; use another name",
        )


def check_prompt(task: Task) -> None:
    """Raise RecordError unless the prompt is a text or a list of messages with a role and a text."""
    try:
        as_prompt(task.prompt)
    except ValueError as error:
        raise RecordError(place_of(task), str(error)) from None


def check_length(task: Task, ids: Sequence[int], most: int, env: str) -> None:
    """Raise RecordError unless a prompt has 1 to `most` tokens.

    Args:
        task: has the prompt.
        ids: of the prompt.
        most: the limit.
        env: id of the environment, for the message.
    """
    if not 0 < len(ids) <= most:
        fix = f"a larger max_prompt (--rollout.max-prompt {len(ids)})" if ids else "a prompt that is not empty"
        raise RecordError(
            place_of(task),
            f"prompt of {env}: expected 1 to {most} tokens, got {len(ids)} ({shown_prompt(task)}); use {fix}",
            len(ids),
        )


def shown_prompt(task: Task) -> str:
    """Return the beginning of a prompt for a message."""
    prompt: Any = task.prompt
    return shown(prompt) if isinstance(prompt, str) else shown([dict(message) for message in prompt])
