"""Export of this library's tokenizers to transformers, so that a policy folder is complete without this library."""

from __future__ import annotations

from typing import Any

from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Tokenizer

_EOS = "<|eos|>"
_PAD = "<|pad|>"
_BOS = "<|bos|>"


def as_transformers(tokenizer: Tokenizer) -> Any | None:
    """Return a fast transformers tokenizer with the same ids and texts; None if the format cannot express it.

    Like every transformers tokenizer, it encodes the name of a special token in a text as that token. The format cannot
    express the blanks of a WordTokenizer, nor a tokenizer of the user's own.
    """
    special_tokens = {"eos_token": _EOS, "pad_token": _PAD}
    if type(tokenizer) is ByteTokenizer:
        core = _byte_level()
        special_tokens["bos_token"] = _BOS
    elif type(tokenizer) is CharTokenizer:
        core = _char_level(tokenizer)
    else:
        return None
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=core, clean_up_tokenization_spaces=False, **special_tokens
    )


def _byte_level() -> Any:
    """Return a `tokenizers.Tokenizer` with one token per byte: a BPE without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()  # type: ignore[no-untyped-call]  # untyped in transformers
    core = Tokenizer(models.BPE({char: byte for byte, char in letters.items()}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([_EOS, _PAD, _BOS])  # ids 256, 257, 258, in this order
    core.post_processor = processors.TemplateProcessing(f"{_BOS} $A", special_tokens=[(_BOS, ByteTokenizer.bos_id)])
    return core


def _char_level(tokenizer: CharTokenizer) -> Any:
    """Return a `tokenizers.Tokenizer` with one token per character of the alphabet."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {_PAD: tokenizer.pad_id, _EOS: tokenizer.eos_id}
    vocabulary |= {char: tokenizer.encode(char)[0] for char in tokenizer.alphabet}
    # the unknown token is absent from the vocabulary: a character outside the alphabet raises an error
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="\0"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([_EOS, _PAD])
    return core
