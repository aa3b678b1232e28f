"""Facts of the tokenizer beside a model: whether it loads, its ids against the embedding, its chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlalign.policies.model_files import ModelFiles, first_line
from rlalign.policies.stop_tokens import end_of_turn
from rlalign.policies.weight_names import hidden_warnings

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """The tokenizer of a model.

    Attributes:
        hf: the transformers tokenizer; None if none exists or it cannot be loaded.
        error: why it cannot be loaded; None if it loads or if no tokenizer file exists.
        tokens: number of tokens, added ones included; 0 without a tokenizer.
        eos_id: its EOS.
        pad_id: its padding token.
        end_of_turn_id: the token with which the chat template ends a message of the assistant.
        past_embedding: tokens whose ids have no row in the model's embedding.
        of_another_model: some of these are ordinary tokens, which a text may contain, rather than added ones.
    """

    hf: Any = None
    error: str | None = None
    tokens: int = 0
    eos_id: int | None = None
    pad_id: int | None = None
    end_of_turn_id: int | None = None
    past_embedding: tuple[str, ...] = ()
    of_another_model: bool = False


def read_tokenizer(files: ModelFiles, rows: int | None, trust_remote_code: bool) -> TokenizerFacts:
    """Return the facts of the tokenizer beside a model, without raising if it is broken."""
    from transformers import AutoTokenizer

    found = [file for file in TOKENIZER_FILES if files.find(file) is not None]
    if not found:
        return TokenizerFacts()
    no_vocabulary = "tokenizer.json is missing" if found == ["tokenizer_config.json"] else None
    try:
        with hidden_warnings():
            hf = AutoTokenizer.from_pretrained(files.name, trust_remote_code=trust_remote_code)
            ids = hf("a b", add_special_tokens=False)["input_ids"]
    except Exception as error:  # a damaged file raises errors of many types, the Rust library's among them
        return TokenizerFacts(error=no_vocabulary or first_line(error))
    if not ids:  # transformers builds the tokenizer of some families without their vocabulary file
        return TokenizerFacts(error=no_vocabulary or "its vocabulary is missing, and a text has no tokens")
    past = sorted((i, token) for token, i in hf.get_vocab().items() if rows is not None and i >= rows)
    return TokenizerFacts(
        hf=hf,
        tokens=len(hf),
        eos_id=hf.eos_token_id,
        pad_id=hf.pad_token_id,
        end_of_turn_id=end_of_turn(hf),
        past_embedding=tuple(token for _, token in past),
        of_another_model=any(token not in hf.get_added_vocab() for _, token in past),
    )
