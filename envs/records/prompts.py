"""Prompts of records: a text, or messages with a role and a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlalign.envs.records.values import checked_text, plain, shown
from rlalign.types import Prompt


def as_prompt(value: Any) -> Prompt:
    """Return a value as a prompt: a text, or a list of messages with text contents.

    The text parts of a content (`[{"type": "text", "text": ...}]`) are joined. A message that only calls tools has an
    empty content. Keys of a message whose value is missing are left out, as Arrow adds them.

    Raises:
        ValueError: the value is neither. The message names what it is, and the message of a list that is at fault.

    Example:
        >>> as_prompt([{"role": "user", "content": [{"type": "text", "text": "2+2?"}], "name": None}])
        [{'role': 'user', 'content': '2+2?'}]
    """
    if isinstance(value, str):
        return checked_text(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a text or a list of messages as the prompt, got {shown(value)}")
    if not value:
        raise ValueError("expected a text or a list of messages as the prompt, got an empty list")
    return [_message(message, number) for number, message in enumerate(value, 1)]


def split_last_answer(prompt: Prompt) -> tuple[Prompt, str | None]:
    """Return a conversation without its last message, and that message's text, if the assistant wrote it.

    Example:
        >>> split_last_answer([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
        ([{'role': 'user', 'content': '2+2?'}], '4')
    """
    if isinstance(prompt, str) or prompt[-1]["role"] != "assistant":
        return prompt, None
    return list(prompt[:-1]), prompt[-1]["content"] or None


def _message(message: Any, number: int) -> dict[str, Any]:
    where = f"message {number} of the prompt"
    if not isinstance(message, Mapping):
        raise ValueError(f"{where}: expected a role and a content, got {shown(message)}")
    if not isinstance(message.get("role"), str) or "content" not in message:
        if "role" in message and message["role"] is not None and not isinstance(message["role"], str):
            raise ValueError(f"{where}: expected a text as the role, got {shown(message['role'])}")
        keys = ", ".join(map(str, message)) or "nothing"
        raise ValueError(f"{where}: expected a role and a content, got {keys}")
    others = {
        str(name): plain(value)
        for name, value in message.items()
        if name not in ("role", "content") and value is not None
    }
    content = _content(message["content"], where, calls_tools=bool(others.get("tool_calls")))
    return {"role": message["role"], "content": content, **others}


def _content(content: Any, where: str, *, calls_tools: bool) -> str:
    if isinstance(content, str):
        return checked_text(content)
    if content is None and calls_tools:
        return ""
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if isinstance(content, list | tuple) and content:
        return "".join(_part(part, where) for part in content)
    raise ValueError(f"{where}: expected a text as the content, got {shown(content)}")


def _part(part: Any, where: str) -> str:
    text = part if isinstance(part, str) else None
    if isinstance(part, Mapping) and part.get("type", "text") == "text":
        text = part.get("text")
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else None
        raise ValueError(f"{where}: expected text parts as the content, got {kind or shown(part)}")
    return checked_text(text)
