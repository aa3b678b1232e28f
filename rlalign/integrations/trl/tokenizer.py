"""One of our tokenizers in the clothes that TRL asks for, so that prompts are encoded and completions decoded by it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizer

from rlalign.tokenizers import as_tokenizer
from rlalign.types import Tokenizer


def processing_class(tokenizer: Any) -> TrlTokenizer:
    """A `processing_class` for TRL's trainers from anything that `rlalign.tokenizers.as_tokenizer` takes."""
    return TrlTokenizer(as_tokenizer(tokenizer))


class TrlTokenizer(PreTrainedTokenizer):
    """Prompt to ids through `encode_prompt`, ids to text through `decode`: nothing is tokenised in another way.

    A token's name is the decimal number of its id; no text is ever made of names.
    """

    def __init__(self, ours: Tokenizer) -> None:
        self.ours = ours
        names = {"eos_token": str(ours.eos_id), "pad_token": str(ours.pad_id)}
        super().__init__(padding_side="left", **names)  # type: ignore[no-untyped-call]  # untyped in transformers

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.ours.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Name -> id."""
        return {str(i): i for i in range(self.ours.vocab_size)}

    def _convert_token_to_id(self, token: str) -> int:
        return int(token)

    def _convert_id_to_token(self, index: int) -> str:
        return str(index)

    def __call__(self, text: Any = None, **kwargs: Any) -> Any:
        """Ids of prompts."""
        return {"input_ids": [self.ours.encode_prompt(t) for t in text]}

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Ids of prompts that are conversations."""
        return {"input_ids": [self.ours.encode_prompt(messages) for messages in conversation]}

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Texts of completions."""
        return [self.ours.decode([int(i) for i in ids]) for ids in sequences]
