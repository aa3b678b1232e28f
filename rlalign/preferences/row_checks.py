"""Checks of one preference. Each yields a kind of `findings.KINDS` and a detail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlalign.preferences.pairs import SIDES, Message, Preference, Side, content_of, is_set, text_of

_HALF = re.compile("[\ud800-\udfff]")
_MESSAGES = re.compile(r"""^\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
_FINISHED = re.compile(r"""[\w\s]$""")

Problem = tuple[str, str]


def row_problems(preference: Preference) -> Iterator[Problem]:
    """Yield what is wrong with one preference."""
    yield from _texts(preference)
    yield from _prompt(preference)
    yield from _sides(preference)
    yield from _roles(preference)
    if preference.margin is not None and preference.margin < 0:
        yield "negative-margin", f"{preference.margin}"
    for side in SIDES:
        if is_set(preference.extra.get(f"{side}_cut")):
            yield "cut", side


def _parts(preference: Preference) -> Iterator[tuple[str, Side]]:
    if preference.prompt is not None:
        yield "prompt", preference.prompt
    yield "chosen", preference.chosen
    yield "rejected", preference.rejected


def _texts(preference: Preference) -> Iterator[Problem]:
    """Yield characters that do not belong into a text, and messages that were written as a text."""
    for name, side in _parts(preference):
        text = text_of(side)
        if "\x00" in text:
            yield "nul", name
        if not text.isascii():
            if match := _HALF.search(text):
                yield "half-character", f"{name}, character {match.start() + 1}"
            if "\ufffd" in text:
                yield "replaced-character", f"{name}, character {text.index(chr(0xFFFD)) + 1}"
        if isinstance(side, str) and _MESSAGES.match(side):
            yield "messages-as-text", f"{name} begins with {side.strip()[:20]}"


def _prompt(preference: Preference) -> Iterator[Problem]:
    """Yield what is wrong with the prompt: empty, repeated in a side, or not shared by the sides."""
    prompt = preference.prompt
    if prompt is None:
        explicit = preference.explicit()
        # if a side begins with the other one, TRL's prompt lacks the last message: the sides are checked elsewhere
        if isinstance(preference.chosen, type(preference.rejected)) and not explicit.prompt:
            yield "no-shared-prompt", _difference(preference.chosen, preference.rejected)
        return
    if not text_of(prompt).strip():
        yield "missing-prompt", "empty"
        return
    if preference.form == "mixed":
        return
    begins = [name for name in SIDES if _begins_with(getattr(preference, name), prompt)]
    if begins:
        yield "prompt-repeated", " and ".join(begins)


def _begins_with(side: Side, prompt: Side) -> bool:
    """Return True if a side begins with the prompt. A prompt of a word is too short to tell."""
    if len(text_of(prompt)) < 10 or len(side) <= len(prompt):
        return False
    return bool(side[: len(prompt)] == prompt)


def _difference(chosen: Side, rejected: Side) -> str:
    first = [text_of(side[:1])[:30] for side in (chosen, rejected)]
    return f"chosen begins with {first[0]!r}, rejected with {first[1]!r}"


def _sides(preference: Preference) -> Iterator[Problem]:
    explicit = preference.explicit()
    for name in SIDES:
        if not text_of(getattr(preference, name)).strip() and not _calls_tools(getattr(preference, name)):
            yield "empty-side", name
        elif explicit is not preference and explicit.prompt and not text_of(getattr(explicit, name)).strip():
            yield "empty-side", f"{name}: nothing after the shared beginning"
    if same_text(preference.chosen, preference.rejected):
        yield "equal-sides", "equal" if preference.chosen == preference.rejected else "equal but for spaces"
    for name, side in _parts(preference):
        if isinstance(side, list) and len(side) > 1:
            for number, message in enumerate(side, 1):
                if not content_of(message).strip() and not message.get("tool_calls"):
                    yield "empty-message", f"{name}, message {number}"


def _calls_tools(side: Side) -> bool:
    return isinstance(side, list) and any(message.get("tool_calls") for message in side)


def same_text(chosen: Side, rejected: Side) -> bool:
    """Return True for sides that are equal but for white space, with equal roles."""
    if isinstance(chosen, str) or isinstance(rejected, str):
        return isinstance(chosen, str) and isinstance(rejected, str) and chosen.split() == rejected.split()
    return [_comparable(message) for message in chosen] == [_comparable(message) for message in rejected]


def _comparable(message: Message) -> tuple[Any, ...]:
    others = {name: value for name, value in message.items() if name != "content" and value is not None}
    content = message.get("content")
    return (content.split() if isinstance(content, str) else content, others)


def _roles(preference: Preference) -> Iterator[Problem]:
    """Yield roles that no chat template expects: a late system message, two turns of one role, no answer at the end."""
    for name in SIDES:
        side = getattr(preference, name)
        if not isinstance(side, list):
            continue
        prompt = preference.prompt if isinstance(preference.prompt, list) else []
        if problem := role_problem([*prompt, *side]):
            yield "roles", f"{name}: {problem}"
            return  # both sides share the prompt


def role_problem(messages: list[Message]) -> str:
    """Return what is out of order in the roles of a conversation; empty if nothing is.

    Expected are system or developer first, then user and assistant in turn, tool after assistant or tool, and the
    assistant last.

    Example:
        >>> role_problem([{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}])
        'message 2 is of user after user'
    """
    allowed = {
        "": ("system", "developer", "user"),
        "system": ("user", "system", "developer"),
        "developer": ("user", "system", "developer"),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("assistant", "tool", "user"),
    }
    previous = ""
    for number, message in enumerate(messages, 1):
        role = str(message.get("role"))
        if role not in allowed:
            return f"message {number} is of the unknown role {role}"
        if role not in allowed[previous]:
            return f"message {number} is of {role} after {previous}" if previous else f"the first message is of {role}"
        previous = role
    return "" if previous == "assistant" else f"the last message is of {previous or 'nobody'}"


def ends_unfinished(side: Side) -> bool:
    """Return True for a side whose text ends in a letter, a digit or a blank, as a text that was cut often does."""
    text = text_of(side[-1:]) if isinstance(side, list) else side
    return bool(text) and bool(_FINISHED.search(text)) and not re.search(r"[\u3040-\u30ff\u4e00-\u9fff]$", text)


def joins_words(preference: Preference) -> bool:
    """Return True if an explicit text prompt and a side would be put together within a word."""
    prompt = preference.prompt
    if not isinstance(prompt, str) or not prompt or not prompt[-1].isalnum():
        return False
    sides = (preference.chosen, preference.rejected)
    return any(isinstance(side, str) and side[:1].isalnum() and side[:1].isascii() for side in sides)


def length_of(side: Side) -> int:
    """Return the number of characters of a side."""
    return len(text_of(side))


def split_name(preference: Preference, known: Mapping[str, str]) -> str:
    """Return the split of a preference by the usual names; empty if it has none."""
    return known.get((preference.split or "").strip().casefold(), "")
