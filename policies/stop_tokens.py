"""Tokens that end a turn: EOS of the tokenizer and of the configurations, and the end-of-turn token of a template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_CONTENT = "Qzx"  # content of the rendered turn: no template contains it


def configured_eos(*configs: Mapping[str, Any] | None) -> set[int]:
    """Return the EOS ids of configuration files, each a number, a list or absent.

    Args:
        configs: contents of generation_config.json and config.json; a nested `text_config` is read too.
    """
    ids: set[int] = set()
    for config in configs:
        for part in (config or {}, (config or {}).get("text_config") or {}):
            value = part.get("eos_token_id")
            values = value if isinstance(value, list) else [value]
            ids.update(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)
    return ids


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token with which the chat template ends an assistant's message; None if the template has none.

    It is the first special token after the content of a rendered assistant's message that is not part of the header
    that opens such a message.

    Args:
        tokenizer: a transformers tokenizer.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    question = [{"role": "user", "content": "a"}]
    try:
        closed = _render(tokenizer, [*question, {"role": "assistant", "content": _CONTENT}], False)
        asked = _render(tokenizer, question, False)
        opened = _render(tokenizer, question, True)
    except Exception:  # a template may raise anything; the first prompt of messages reports it
        return None
    header = opened[len(asked) :] if opened.startswith(asked) else ""
    tail = closed.rpartition(_CONTENT)[2] if _CONTENT in closed else ""
    in_header = set(_special_ids(tokenizer, header))
    return next((i for i in _special_ids(tokenizer, tail) if i not in in_header), None)


def _render(tokenizer: Any, messages: list[dict[str, str]], open_turn: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn, tokenize=False))


def _special_ids(tokenizer: Any, text: str) -> Iterable[int]:
    """Return the ids of special or added tokens in a text, in order."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return [i for i in tokenizer(text, add_special_tokens=False)["input_ids"] if i in special]
