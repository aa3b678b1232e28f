"""One record as a task."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from rlalign.envs.records.prompts import as_prompt, split_last_answer
from rlalign.envs.records.values import has_bytes, plain, shown
from rlalign.errors import RecordError
from rlalign.types import Prompt, Split, Task

DEFAULT_PROMPT = "prompt"
_LIKELY = ("messages", "conversations", "conversation", "question", "instruction", "query", "input", "text")
"""Columns of published data sets that hold prompts."""


def task_of(record: Any, prompt: str, split: Split, index: int, place: str) -> Task:
    """Return the task of a record: its prompt, and its other columns as plain values, in which a missing one is None.

    A conversation in another column than `prompt` is a whole one, as in the column `messages` of OpenAI's format: if
    the assistant wrote its last message, this is the reference answer and not a part of the prompt. It becomes the
    column `answer`, unless the record has one. In the column `prompt`, the policy continues such a message.

    Args:
        record: a text, a mapping or a Task.
        prompt: the column that holds the prompt.
        split: of the task.
        index: of the task in the split.
        place: of the record, for messages.

    Raises:
        RecordError: the record has no prompt, or one of its values cannot be used.
    """
    if isinstance(record, Task):
        return Task(record.prompt, record.columns, split, index, record.place or place)
    try:
        if isinstance(record, str):
            return Task(as_prompt(record), {}, split, index, place)
        value = prompt_of(record, prompt)
        columns = {str(name): _column(name, value) for name, value in record.items() if name not in (prompt, "prompt")}
        text = as_prompt(value)
        if prompt != DEFAULT_PROMPT:
            text, answer = split_last_answer(text)
            if not text:
                raise ValueError("expected a message before the assistant's answer, got the answer alone")
            if answer is not None and columns.get("answer") is None:
                columns["answer"] = answer
        return Task(text, columns, split, index, place)
    except ValueError as error:
        raise RecordError(place, str(error)) from None


def prompt_of(record: Any, prompt: str) -> Any:
    """Return the value of the column that holds the prompt.

    Raises:
        ValueError: the record has no such column, or no value in it.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected a text or a table of columns, got {shown(record)}")
    if prompt not in record:
        columns = [str(name) for name in record]
        similar = get_close_matches(prompt, columns, n=1)
        likely = next((name for name in (*similar, *_LIKELY) if name in columns), "COLUMN")
        listed = ", ".join(columns) or "no column"
        raise ValueError(f"expected a column '{prompt}', got {listed}; rename a column or use ?prompt={likely}")
    value = record[prompt]
    # an array has no single truth value, and is not missing
    if value is None or (not hasattr(value, "__len__") and plain(value) is None):
        raise ValueError(f"expected a prompt in the column '{prompt}', got none")
    return value


def raw_prompt(record: Any, prompt: str) -> Prompt | Any:
    """Return the prompt of a record, to cut splits by it; the value of its column if that is not a valid prompt."""
    try:
        return task_of(record, prompt, "train", 0, "").prompt
    except RecordError:
        return record.get(prompt) if isinstance(record, Mapping) else record


def _column(name: Any, value: Any) -> Any:
    try:
        value = plain(value)
    except ValueError as error:
        raise ValueError(f"column '{name}': {error}") from None
    if name == "answer" and has_bytes(value):
        raise ValueError(f"column 'answer': expected text in UTF-8, got {shown(value)}; use the text")
    return value
