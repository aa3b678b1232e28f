"""Comparison of llama.cpp's tokens and chat prompts with those that the policy was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.errors import FaultError
from rlalign.export.engine import Engine
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Prompt, Tokenizer

_NATS = 0.2
"""Difference of log-probs between the chat endpoint and the same ids: other sizes of batches have other kernels, which
round low precisions differently (0.003 for SmolLM2 in f16)."""


def check_text(engine: Engine, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Compare the ids of prompts, and of messages through the chat endpoint, between llama.cpp and the policy.

    Args:
        engine: llama.cpp with the exported file.
        tokenizer: of the policy.
        prompts: held-out prompts: texts or messages.

    Returns:
        `texts` and `chats`, the numbers of prompts that were compared.

    Raises:
        FaultError: a prompt becomes other ids.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    chats = [[dict(message) for message in prompt] for prompt in prompts if not isinstance(prompt, str)]
    if isinstance(tokenizer, HFTokenizer) and tokenizer.has_chat_template and not chats:
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
                f"expected the policy's {len(ids)} ids of {text[:60]!r} from llama.cpp, got {len(found)} that "
                f"differ at position {at}: {found[at : at + 4]} in place of {ids[at : at + 4]}; use --format hf"
            )
    for chat, prompt, found, nats in zip(chats, rendered, answer["prompts"], answer["nats"], strict=True):
        if found not in (prompt, prompt.removeprefix(_bos(tokenizer))):
            raise FaultError(
                f"expected the chat prompt {prompt[-80:]!r} from llama.cpp, got {found[-80:]!r}; use --format hf"
            )
        if not nats <= _NATS:
            raise FaultError(
                f"expected the chat endpoint of llama.cpp to read the ids of {chat[-1]['content'][:60]!r}, got ones "
                f"with log-probs that differ by {nats:.2g} nats from those of the ids; use --format hf"
            )
    return {"texts": len(texts), "chats": len(chats)}


def _bos(tokenizer: Tokenizer) -> str:
    """Return the text of BOS; "" without one."""
    return str(getattr(getattr(tokenizer, "hf", None), "bos_token", None) or "")


def _rendered(tokenizer: Tokenizer, chat: list[dict[str, str]]) -> str:
    """Return the text of messages through the chat template, with the header of the answer at its end."""
    assert isinstance(tokenizer, HFTokenizer)  # others have no messages
    return str(tokenizer.hf.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
