"""Comparison of a loader's tokens and chat prompts with those that the policy was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.errors import FaultError
from rlalign.export.engine import Engine
from rlalign.tokenizers import HFTokenizer, chat_text
from rlalign.types import Prompt, Tokenizer

_NATS = 0.2
"""Difference of log-probs between the chat endpoint and the same ids: other sizes of batches have other kernels, which
round low precisions differently (0.003 for SmolLM2 in f16)."""


def check_text(engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Compare the ids of prompts, and of messages through the chat template, between a loader and the policy.

    llama.cpp's chat endpoint is asked too.

    Args:
        engine: the loader of the exported file.
        tokenizer: of the policy.
        prompts: held-out prompts: texts or messages.

    Returns:
        `texts` and `chats`, the numbers of prompts that were compared.

    Raises:
        FaultError: a prompt becomes other ids.
    """
    has_template = isinstance(tokenizer, HFTokenizer) and tokenizer.has_chat_template
    chats = [_question(prompt) for prompt in prompts if has_template and not isinstance(prompt, str)]
    chats = [chat for chat in chats if chat]
    # bytes and alphabets read messages as one text; an empty text is a token that this library adds
    texts = [text for prompt in prompts if isinstance(prompt, str) or not has_template if (text := chat_text(prompt))]
    if has_template and not chats and texts:
        chats = [[{"role": "user", "content": text}] for text in texts[:1]]
    rendered = [_rendered(tokenizer, chat) for chat in chats]
    expected_chats = [tokenizer.encode_prompt(chat) for chat in chats]
    answer = engine.text(texts, chats, expected_chats)
    expected = [*(tokenizer.encode_prompt(text) for text in texts), *expected_chats]
    for text, ids, found in zip([*texts, *rendered], expected, answer["ids"], strict=True):
        if found != ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(ids, found, strict=False)) if a != b), min(len(ids), len(found))
            )
            raise FaultError(
                f"expected the policy's {len(ids)} ids of {text[:60]!r} from {engine.loader}, got {len(found)} that "
                f"differ at position {at}: {found[at : at + 4]} in place of {ids[at : at + 4]}; {_fix(engine)}"
            )
    for chat, prompt, found, nats in zip(chats, rendered, answer["prompts"], answer["nats"], strict=True):
        if found not in (prompt, prompt.removeprefix(_bos(tokenizer))):
            raise FaultError(
                f"expected the chat prompt {prompt[-80:]!r} from {engine.loader}, got {found[-80:]!r}; {_fix(engine)}"
            )
        if not nats <= _NATS:
            raise FaultError(
                f"expected the chat endpoint of llama.cpp to read the ids of {chat[-1]['content'][:60]!r}, got ones "
                f"with log-probs that differ by {nats:.2g} nats from those of the ids; use --format hf"
            )
    return {"texts": len(texts), "chats": len(chats)}


def _question(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return messages without the answer at their end, which this library continues and a chat endpoint does not."""
    chat = [dict(message) for message in messages]
    while chat and chat[-1]["role"] == "assistant":
        chat.pop()
    return chat


def _fix(engine: Engine) -> str:
    """Return what to do about another prompt."""
    if engine.loader == "llama.cpp":
        return "use --format hf"
    return "the tokenizer's files in policy/ may have changed since the training: restore them"


def _bos(tokenizer: Tokenizer) -> str:
    """Return the text of BOS; "" without one."""
    return str(getattr(getattr(tokenizer, "hf", None), "bos_token", None) or "")


def _rendered(tokenizer: Tokenizer, chat: list[dict[str, str]]) -> str:
    """Return the text of messages through the chat template, with the header of the answer at its end."""
    assert isinstance(tokenizer, HFTokenizer)  # others have no messages
    return str(tokenizer.hf.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
