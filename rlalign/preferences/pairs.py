"""One preference: a prompt and two completions, of which one was chosen.

TRL has four forms of it ("Dataset formats and types" of its documentation):

| form | prompt | chosen, rejected |
|---|---|---|
| standard explicit | text | texts that continue the prompt |
| standard implicit | | texts that begin with the prompt |
| conversational explicit | messages | messages that follow the prompt |
| conversational implicit | | messages that begin with the prompt |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlalign.errors import UserError

Message = dict[str, Any]
Side = str | list[Message]
"""A text, or messages with `role` and `content`."""
SIDES = ("chosen", "rejected")
FORMS = ("standard explicit", "standard implicit", "conversational explicit", "conversational implicit")
_TYPED = ("prompt", "chosen", "rejected", "margin", "annotator", "group", "split")


@dataclass(frozen=True, slots=True)
class Preference:
    """A row of preference data.

    A row that is read and written is unchanged: typed columns keep the value that was read, and all others are in
    `extra`.

    Attributes:
        chosen: the better completion; with an implicit prompt it begins with the prompt.
        rejected: the other completion.
        prompt: text or messages; None if it is implicit.
        margin: strength of the preference. TRL's RewardTrainer subtracts it from the difference of the rewards.
        annotator: pseudonym of the person.
        group: of prompts that a split must not divide.
        split: such as train or test.
        extra: further columns.
        columns: names of the columns in the order of the file; empty: the order of the attributes.
        place: file and row, for messages.
    """

    chosen: Side
    rejected: Side
    prompt: Side | None = None
    margin: int | float | None = None
    annotator: str | None = None
    group: str | int | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    place: str = ""

    @property
    def form(self) -> str:
        """The form of TRL, one of `FORMS`; "mixed" if a text and messages meet."""
        conversational = [isinstance(side, list) for side in (self.chosen, self.rejected)]
        if self.prompt is not None:
            conversational.append(isinstance(self.prompt, list))
        if len(set(conversational)) > 1:
            return "mixed"
        kind = "conversational" if conversational[0] else "standard"
        return f"{kind} {'implicit' if self.prompt is None else 'explicit'}"

    def explicit(self) -> Preference:
        """Return the preference with an explicit prompt, as TRL's `extract_prompt` takes it from the two sides.

        A prompt that is a text beside messages is redundant in published data: the messages contain it. It is replaced.
        A prompt of messages beside texts stays: the texts are answers to it.
        """
        if self.prompt is not None and (self.form != "mixed" or isinstance(self.prompt, list)):
            return self
        if isinstance(self.chosen, str) is not isinstance(self.rejected, str):
            return self
        length = shared_prefix(self.chosen, self.rejected)
        return Preference(
            self.chosen[length:], self.rejected[length:], self.chosen[:length], self.margin, self.annotator, self.group,
            self.split, self.extra, tuple(name for name in self.columns if name != "prompt"), self.place,
        )  # fmt: skip

    def row(self) -> dict[str, Any]:
        """Return the preference as a row of TRL: column -> value, in the order in which it was read."""
        row: dict[str, Any] = {}
        values = {name: getattr(self, name) for name in _TYPED}
        first = [] if self.prompt is None or "prompt" in self.columns else ["prompt"]
        for name in (*first, *self.columns):
            is_typed = name in values and (values[name] is not None or name not in self.extra)
            row[name] = values[name] if is_typed else self.extra.get(name)
        for name, value in values.items():
            if name not in row and value is not None:
                row[name] = value
        for name, value in self.extra.items():
            row.setdefault(name, value)
        return row


def preference_of(record: Any, place: str = "") -> Preference:
    """Return a row of TRL as a preference.

    Args:
        record: column -> value; `chosen` and `rejected` are required.
        place: file and row, for the message.

    Raises:
        UserError: names the place and the first problem.
    """
    for _, problem in problems_of(record):
        raise UserError(f"{place}: {problem}" if place else problem)
    known = {name: record[name] for name in _TYPED if name in record and _is_typed(name, record[name])}
    extra = {name: value for name, value in record.items() if name not in known}
    return Preference(**known, extra=extra, columns=tuple(record), place=place)


def problems_of(record: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the description of each problem that keeps a row from being a preference."""
    if not isinstance(record, Mapping):
        yield "no-row", f"expected columns with chosen and rejected, got {_named(record)}; use an object per row"
        return
    for side in SIDES:
        value = record.get(side)
        if value is None:
            what = "none" if side in record else f"the columns {', '.join(map(str, record)) or 'none'}"
            yield "missing-side", f"expected a text or messages in '{side}', got {what}; add it, or leave the row out"
        elif not is_side(value):
            yield "no-side", f"expected a text or messages in '{side}', got {_named(value)}; use a text or messages"
    prompt = record.get("prompt")
    if prompt is not None and not is_side(prompt):
        yield "no-side", f"expected a text or messages in 'prompt', got {_named(prompt)}; use a text or messages"


def is_side(value: Any) -> bool:
    """Return True for a text or a list of messages. A message has a role, and a content or calls of tools."""
    if isinstance(value, str):
        return True
    return isinstance(value, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and (isinstance(message.get("content"), str | list) or bool(message.get("tool_calls")))
        for message in value
    )


def _is_typed(name: str, value: Any) -> bool:
    """Return True if a column has a value of the type of its attribute; other values are kept in `extra`."""
    if name in ("prompt", *SIDES):
        return value is None or is_side(value)
    if name == "margin":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name == "group":
        return isinstance(value, str | int) and not isinstance(value, bool)
    return isinstance(value, str)


def is_set(flag: Any) -> bool:
    """Return whether a flag of a row is set: true, or its text, as a CSV file has it.

    Example:
        >>> is_set(True), is_set("True"), is_set("False"), is_set(None)
        (True, True, False, False)
    """
    return str(flag).strip().lower() in ("true", "1")


def text_of(side: Side | None) -> str:
    """Return the text of a side: the contents of its messages, one per line; the text parts of each."""
    if side is None or isinstance(side, str):
        return side or ""
    return "\n".join(content_of(message) for message in side)


def content_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message: its content, or the text parts of it."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def shared_prefix(chosen: Side, rejected: Side) -> int:
    """Return the length of the prompt that TRL's `extract_prompt` takes from two sides: characters, or messages.

    It is the longest common prefix, without a space at its end. TRL compares character by character; slices are equal
    and faster. If one side begins with the other, TRL's prompt is without the last character or message; here, too.

    Example:
        >>> shared_prefix("The sky is blue.", "The sky is green.")
        10
    """
    low, high = 0, min(len(chosen), len(rejected))
    if chosen[:high] == rejected[:high]:
        return max(high - 1, 0)
    while high - low > 1:  # chosen[:low] is common, chosen[:high] is not
        middle = (low + high) // 2
        if chosen[low:middle] == rejected[low:middle]:
            low = middle
        else:
            high = middle
    return low - 1 if low and chosen[low - 1] == " " else low


def _named(value: Any) -> str:
    """Return a value for a message: its type, and its text if it is short."""
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    if isinstance(value, list):
        return "an empty list" if not value else "a list with an entry that is no message of role and content"
    return type(value).__name__
