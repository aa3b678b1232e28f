"""A transformers tokenizer as the library's `Tokenizer`: ids in, ids out, special tokens in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.types import Prompt


class HFTokenizer:
    """Wraps a transformers tokenizer.

    Args:
        hf: the tokenizer.
        vocab_size: the model's; it may be larger than the tokenizer's, never smaller.
    """

    def __init__(self, hf: Any, vocab_size: int | None = None) -> None:
        if hf.eos_token_id is None:
            raise UserError(
                f"the tokenizer of '{hf.name_or_path}' has no EOS token: set tokenizer.eos_token and save it"
            )
        self.hf = hf
        self.vocab_size: int = max(len(hf), vocab_size or 0)
        self.eos_id: int = hf.eos_token_id
        self.pad_id: int = hf.pad_token_id if hf.pad_token_id is not None else hf.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self.hf.encode(text, add_special_tokens=False))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a text, with what the tokenizer starts sequences with, or of a conversation in its chat template.

        An empty prompt becomes BOS, or EOS for a tokenizer without one. Raises UserError for a conversation when the
        tokenizer has no chat template.
        """
        if isinstance(prompt, str):
            # Some tokenizers also end a sequence with EOS when asked for special tokens; a prompt is not at its end.
            ids = list(self.hf.encode(prompt, add_special_tokens=True))
            if ids and ids[-1] == self.eos_id and not prompt.endswith(self.hf.eos_token):
                ids.pop()
        else:
            if not self.hf.chat_template:
                raise UserError(f"'{self.hf.name_or_path}' has no chat template: give prompts as plain texts")
            messages = [dict(message) for message in prompt]
            out = self.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
            ids = list(out["input_ids"])
        start = self.hf.bos_token_id if self.hf.bos_token_id is not None else self.eos_id
        return ids or [start]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens and ids without a token left out."""
        known = [int(i) for i in ids if 0 <= i < len(self.hf)]
        text: str = self.hf.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def save_pretrained(self, folder: Path) -> None:
        """Write the tokenizer as transformers does."""
        self.hf.save_pretrained(folder)
