r"""Transcripts of HH-RLHF, `\n\nHuman: ...\n\nAssistant: ...` (Bai et al. 2022, arXiv:2204.05862).

Both sides hold the whole conversation. They become messages with an explicit prompt: all turns but the last one of the
assistant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row
from rlalign.preferences.pairs import Message, Preference

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def detect(records: Sequence[Any]) -> str:
    """Return why records are transcripts of HH-RLHF; empty if they are not."""
    for record in records:
        if not isinstance(record, Mapping):
            return ""
        sides = [record.get(name) for name in ("chosen", "rejected")]
        if not all(isinstance(side, str) and side.startswith("\n\nHuman:") for side in sides):
            return ""
    return r"chosen and rejected begin with \n\nHuman:"


def read(row: Row, left_out: Counter[str], **options: Any) -> Iterator[Preference]:
    """Yield the preference of a row.

    Raises:
        UserError: a side is no transcript, or the sides differ before the last turn.
    """
    sides = []
    for name in ("chosen", "rejected"):
        text = row.record.get(name)
        if not isinstance(text, str) or not text.startswith("\n\nHuman:"):
            raise UserError(f"{row.place}: expected '{name}' to begin with two newlines and Human:, got {text!r:.60}")
        sides.append(messages_of(text))
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1] or not all(side[-1]["role"] == "assistant" for side in sides):
        raise UserError(
            f"{row.place}: expected sides that differ in the last turn of the assistant alone, got other ones; use "
            "--format trl, which takes the longest common beginning as the prompt"
        )
    extra = {name: value for name, value in row.record.items() if name not in ("chosen", "rejected")}
    yield Preference(chosen[-1:], rejected[-1:], chosen[:-1], extra=extra, place=row.place, split=row.split or None)


def messages_of(text: str) -> list[Message]:
    r"""Return the turns of a transcript as messages. A blank after the colon belongs to the transcript.

    Example:
        >>> messages_of("\n\nHuman: Hi\n\nAssistant: Hello.")
        [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    parts = _TURN.split(text)
    return [
        {"role": _ROLES[role], "content": content.removeprefix(" ")}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


def transcript_of(messages: Sequence[Message]) -> str:
    r"""Return messages as a transcript, the inverse of `messages_of`.

    Raises:
        UserError: a message is of another role than user and assistant, or its text contains a turn.
    """
    names = {role: name for name, role in _ROLES.items()}
    turns = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in names or not isinstance(content, str) or _TURN.search(content):
            raise UserError(
                f"expected messages of user and assistant without turns in their texts, got one of {role!r}; use the "
                "format trl"
            )
        turns.append(f"\n\n{names[role]}: {content}")
    return "".join(turns)
