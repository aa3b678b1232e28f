"""Rows of demonstrations, logged rewards and labels as trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlalign.envs.records.prompts import as_prompt
from rlalign.envs.records.values import checked_text
from rlalign.errors import RecordError
from rlalign.preferences.pairs import is_set
from rlalign.recorded.columns import conversation_column
from rlalign.recorded.encode import Encoder
from rlalign.rollout.recorded import Trajectory

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "function": "tool"}
"""Roles of ShareGPT's format -> those of chat templates."""
_TRUE = (True, 1, "true", "yes", "1")
_FALSE = (False, 0, -1, "false", "no", "0", "-1")


def demonstration(encoder: Encoder, record: Mapping[str, Any], place: str, turns: str) -> list[Trajectory]:
    """Return the trajectories of a demonstration: a conversation, or a prompt with its completion.

    Args:
        encoder: of the policy.
        record: column -> value, with `messages` (or `conversations`), or `prompt` and `completion`; of a preference the
            chosen side.
        place: file and row.
        turns: of a conversation, see `Encoder.conversation`.

    Raises:
        RecordError: the row cannot be used.
    """
    column = conversation_column(record)
    if record.get("completion") is None and column:
        refuse_tools(record, place)
        messages = messages_of(record[column], place)
        return encoder.conversation(messages, place=place, turns=turns, cut=is_cut(record))
    prompt, text = prompt_of(record, place), completion_of(record, "completion", place)
    return [encoder.completion(prompt, text, place=place, cut=is_cut(record))]


def rewarded(encoder: Encoder, record: Mapping[str, Any], place: str) -> list[Trajectory]:
    """Return the trajectory of a completion with a logged reward, and its log-probs if the column `logprobs` has them.

    Raises:
        RecordError: the row cannot be used, the reward is not finite, or the log-probs are not one per token.
    """
    prompt, text = prompt_of(record, place), completion_of(record, "completion", place)
    reward = record.get("reward")
    if isinstance(reward, str):  # a cell of CSV
        reward = _number(reward)
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise RecordError(place, f"expected a finite number in 'reward', got {record.get('reward')!r}; leave it out")
    row = encoder.completion(prompt, text, place=place, cut=is_cut(record), reward=float(reward))
    logprobs = record.get("logprobs")
    if logprobs is None:
        return [row]
    if not isinstance(logprobs, list) or not all(isinstance(value, int | float) for value in logprobs):
        raise RecordError(place, "expected a list of numbers in 'logprobs', one per token; leave the column out")
    if len(logprobs) != row.num_actions:
        raise RecordError(
            place,
            f"expected {row.num_actions} log-probs, one per token of the completion and its end, got {len(logprobs)}; "
            "record them under this tokenizer, or leave the column out",
        )
    if not all(math.isfinite(value) and value <= 1e-4 for value in logprobs):
        raise RecordError(place, "expected finite log-probs of at most 0 in 'logprobs'; leave the column out")
    return [replace(row, logprobs=[float(value) for value in logprobs])]


def labelled(encoder: Encoder, record: Mapping[str, Any], place: str) -> list[Trajectory]:
    """Return the trajectory of a completion with a label: its reward is 1 if it is desirable, else 0.

    Raises:
        RecordError: the row cannot be used, or the label is not true or false.
    """
    prompt, text = prompt_of(record, place), completion_of(record, "completion", place)
    label = record.get("label")
    folded = label.strip().lower() if isinstance(label, str) else label
    if not isinstance(folded, bool | int | float | str) or folded not in (*_TRUE, *_FALSE):
        raise RecordError(place, f"expected true or false in 'label', got {label!r}; leave it out")
    desirable = folded in _TRUE
    return [encoder.completion(prompt, text, place=place, cut=is_cut(record), reward=float(desirable))]


def prompt_of(record: Mapping[str, Any], place: str) -> Any:
    """Return the prompt of a row, a text or messages. Raises RecordError if it has none, or names tools."""
    refuse_tools(record, place)
    value = record.get("prompt")
    if value is None:
        raise RecordError(place, "expected a text or messages in 'prompt', got none; leave it out")
    try:
        return as_prompt(value)
    except ValueError as error:
        raise RecordError(place, str(error)) from None


def completion_of(record: Mapping[str, Any], column: str, place: str) -> str:
    """Return the text of a completion: a text, or one message of the assistant. Raises RecordError otherwise."""
    value = record.get(column)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        content = value[0].get("content")
        if value[0].get("role") == "assistant" and isinstance(content, str) and not value[0].get("tool_calls"):
            value = content
    if isinstance(value, str):
        try:
            return checked_text(value)
        except ValueError as error:
            raise RecordError(place, f"'{column}': {error}") from None
    if isinstance(value, list):
        roles = ", ".join(str(m.get("role")) if isinstance(m, Mapping) else type(m).__name__ for m in value)
        raise RecordError(
            place, f"expected one message of the assistant with a text in '{column}', got {roles}; leave it out"
        )
    raise RecordError(place, f"expected a text or a message in '{column}', got {value!r}; leave it out")


def is_cut(record: Mapping[str, Any], prefix: str = "completion") -> bool:
    """Return whether a limit cut a completion: the column `completion_cut` or `truncated` is true."""
    return is_set(record.get(f"{prefix}_cut")) or (prefix == "completion" and is_set(record.get("truncated")))


def messages_of(value: Any, place: str) -> list[dict[str, Any]]:
    """Return a conversation as messages with role and content, also in ShareGPT's format (from, value).

    Raises:
        RecordError: it is no list of messages.
    """
    if isinstance(value, list):
        value = [
            {"role": _ROLES.get(message["from"], message["from"]), "content": message.get("value")}
            if isinstance(message, Mapping) and "from" in message and "role" not in message
            else message
            for message in value
        ]
    try:
        messages = as_prompt(value)
    except ValueError as error:
        raise RecordError(place, str(error)) from None
    if isinstance(messages, str):
        raise RecordError(place, "expected a list of messages, got a text; use the columns prompt and completion")
    return [dict(message) for message in messages]


def refuse_tools(record: Mapping[str, Any], place: str) -> None:
    """Raise RecordError if a row has descriptions of tools, which a chat template would write into the prompt."""
    if record.get("tools"):
        raise RecordError(
            place, "expected a row without 'tools', which the prompt would lack; write them into a message"
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
