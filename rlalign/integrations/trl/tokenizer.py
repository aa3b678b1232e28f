"""Adapter from an rlalign tokenizer to the `processing_class` of TRL's trainers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizer

from rlalign.tokenizers import as_tokenizer
from rlalign.types import Tokenizer


def processing_class(tokenizer: Any) -> TrlTokenizer:
    """Return a tokenizer as the `processing_class` of TRL's trainers.

    It is a `transformers.PreTrainedTokenizer` that encodes prompts with `encode_prompt` and decodes completions with
    `decode` of the rlalign tokenizer. It pads on the left.

    Args:
        tokenizer: an rlalign tokenizer, a transformers tokenizer, or the name of one, such as `chars:abc`; any argument
            of `rlalign.tokenizers.as_tokenizer`.

    Example:
        >>> import rlalign
        >>> tokenizer = rlalign.make_mdp("reverse").tokenizer
        >>> processing_class(tokenizer)(["ab"])["input_ids"] == [tokenizer.encode_prompt("ab")]
        True
    """
    return TrlTokenizer(as_tokenizer(tokenizer))


class TrlTokenizer(PreTrainedTokenizer):
    """Encodes prompts with `encode_prompt` and decodes completions with `decode` of an rlalign tokenizer.

    transformers requires a name per token: it is the decimal number of the token's id, and no text contains it.

    Args:
        tokenizer: the tokenizer to adapt.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer  # before super().__init__, which reads the vocabulary
        names = {"eos_token": str(tokenizer.eos_id), "pad_token": str(tokenizer.pad_id)}
        # Padding on the left: TRL generates from the last column of a batch of prompts.
        super().__init__(padding_side="left", **names)  # type: ignore[no-untyped-call]  # untyped in transformers

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.tokenizer.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Return token name -> id."""
        return {str(i): i for i in range(self.tokenizer.vocab_size)}

    def _convert_token_to_id(self, token: str) -> int:
        return int(token)

    def _convert_id_to_token(self, index: int) -> str:
        return str(index)

    def __call__(self, text: Any = None, **kwargs: Any) -> Any:
        """Return the ids of prompts that are texts."""
        return {"input_ids": [self.tokenizer.encode_prompt(prompt) for prompt in text]}

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the ids of prompts that are conversations."""
        return {"input_ids": [self.tokenizer.encode_prompt(messages) for messages in conversation]}

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Return the texts of completions."""
        return [self.tokenizer.decode([int(i) for i in ids]) for ids in sequences]
