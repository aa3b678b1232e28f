"""Our tokenizers as files of transformers, so that a policy's folder is whole without this library."""

from __future__ import annotations

from typing import Any

from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Tokenizer

_EOS, _PAD, _BOS = "<|eos|>", "<|pad|>", "<|bos|>"


def as_transformers(tokenizer: Tokenizer) -> Any | None:
    """The same ids and texts as a fast tokenizer of transformers; None where it has no words for ours.

    As every tokenizer of transformers it reads the name of a special token in a text as that token. A WordTokenizer's
    rules on blanks, and a tokenizer of the user's own, cannot be said in its language.
    """
    if type(tokenizer) is ByteTokenizer:
        made, names = _bytes(), {"bos_token": _BOS}
    elif type(tokenizer) is CharTokenizer:
        made, names = _chars(tokenizer), {}
    else:
        return None
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=made, eos_token=_EOS, pad_token=_PAD, clean_up_tokenization_spaces=False, **names
    )


def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()  # type: ignore[no-untyped-call]  # untyped in transformers
    made = Tokenizer(models.BPE({char: byte for byte, char in letters.items()}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([_EOS, _PAD, _BOS])  # 256, 257, 258
    made.post_processor = processors.TemplateProcessing(f"{_BOS} $A", special_tokens=[(_BOS, ByteTokenizer.bos_id)])
    return made


def _chars(ours: CharTokenizer) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {_PAD: ours.pad_id, _EOS: ours.eos_id, **{char: ours.encode(char)[0] for char in ours.alphabet}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="\0"))  # which is not there: another character is an error
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([_EOS, _PAD])
    return made
