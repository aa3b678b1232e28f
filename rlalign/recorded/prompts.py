"""The prompts of recorded data as an environment, for runs whose data is all that a user has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlalign.envs.longest_prompt import LongestPrompt
from rlalign.envs.mdp import TextMDP
from rlalign.errors import RecordError, UserError
from rlalign.preferences.pairs import Preference, text_of
from rlalign.recorded.columns import conversation_column, kind_of
from rlalign.recorded.items import Item, columns_of, read_divided
from rlalign.recorded.rows import completion_of, messages_of, prompt_of
from rlalign.types import Task


class RecordedPrompts(TextMDP):
    """The prompts of recorded data, each with the recorded answer: of a preference the chosen one. It has no reward.

    Its training prompts are those of the rows that a run trains on. Those of the held-out rows are divided between
    validation and test (see `rlalign.recorded.items.halves`). `rlalign.config.defaults.env_of_data` names it.

    Args:
        data: file, folder of datasets, or data set of the hub.
        held_out: share of the rows that are held out, as in `recorded.held_out`.
        limits: as for `TextMDP`.

    Raises:
        UserError: the data cannot be read, or no row is held out.
    """

    id = "recorded"
    max_prompt = LongestPrompt()

    def __init__(self, data: str = "", held_out: float = 0.1, **limits: Any) -> None:
        if not data:
            raise UserError("the environment of recorded prompts: expected data, got none; use --data FILE")
        super().__init__(source=_by_split(str(data), held_out), **limits)


def _by_split(data: str, held_out: float) -> dict[str, list[Task]]:
    """Return the different prompts of each split, with their answers."""
    division = read_divided(data, kind_of(columns_of(data)) or "pairs", held_out)
    seen: set[str] = set()
    training = list(_new_records(division.train, seen))
    of_training = set(seen)
    validation = list(_new_records(division.validation, seen))
    test = list(_new_records(division.test, of_training if division.test is division.validation else seen))
    if not (validation and test):
        raise UserError(
            f"'{data}': expected held-out rows, whose prompts are evaluated, got none; use --recorded.held-out 0.1, "
            "more prompts, or --env for other prompts"
        )
    return {"train": training, "validation": validation, "test": test}


def _new_records(items: Sequence[Item], seen: set[str]) -> Iterator[Task]:
    """Yield the record of each prompt that is not in `seen`, to which it is added."""
    for item in items:
        try:
            record = _record(item)
        except (RecordError, UserError):  # the run reads the row again, and says what is wrong
            continue
        key = repr(record.prompt)
        if key not in seen:
            seen.add(key)
            yield record


def _record(item: Item) -> Task:
    content = item.content
    if isinstance(content, RecordError):
        raise content
    if isinstance(content, Preference):
        explicit = content.explicit()
        return _task(item, explicit.prompt, answer=text_of(explicit.chosen))
    column = conversation_column(content)
    if content.get("completion") is None and column:
        messages = messages_of(content[column], item.place)
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
        if last == 0:
            raise RecordError(item.place, "no answer")
        return _task(item, messages[:last], answer=messages[last]["content"])
    prompt = prompt_of(content, item.place)
    if "label" in content or "reward" in content:  # the completion may be a bad one
        return _task(item, prompt)
    return _task(item, prompt, answer=completion_of(content, "completion", item.place))


def _task(item: Item, prompt: Any, **columns: Any) -> Task:
    return Task(prompt, columns, place=item.place)
