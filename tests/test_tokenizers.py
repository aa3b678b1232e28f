"""Tokenizers: round trips, special tokens, and the errors of wrong texts and arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Tokens
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlalign.errors import UserError
from rlalign.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer, WordTokenizer, as_tokenizer
from rlalign.types import Tokenizer

WORDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "a": 3, "b": 4, "user": 5, "assistant": 6, ":": 7}


def hf_tokenizer(
    template: str | None = None, pad: str | None = "<pad>", eos: str | None = "<eos>"
) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer that begins a text with <bos> and, as a few do, ends it with <eos>."""
    inner = Tokens(WordLevel(WORDS, unk_token="<pad>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, pad_token=pad, bos_token="<bos>")
    tokenizer.chat_template = template
    return tokenizer


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    expected = text.encode("utf-8", errors="replace").decode()
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id, tokenizer.pad_id]) == expected


@given(st.lists(st.integers(0, 258)))
def test_bytes_decode_any_ids(ids: list[int]) -> None:
    assert isinstance(ByteTokenizer().decode(ids), str)


def test_bytes_begin_each_prompt_with_bos() -> None:
    assert ByteTokenizer().encode_prompt("") == [258]
    chat = [{"role": "user", "content": "hi"}]
    assert ByteTokenizer().decode(ByteTokenizer().encode_prompt(chat)) == "user: hi\nassistant:"


def test_characters() -> None:
    tokenizer = CharTokenizer("abca")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode_prompt("cab") == [4, 2, 3]
    assert tokenizer.decode([4, 1, 2, 0, 3, 99]) == "cab"
    with pytest.raises(UserError, match="alphabet 'abc', got 'd'"):
        tokenizer.encode("bad")


def test_hf_prefix_without_a_trailing_eos() -> None:
    tokenizer = HFTokenizer(hf_tokenizer())
    assert tokenizer.encode("a b") == [3, 4]
    assert tokenizer.encode_prompt("a b") == [2, 3, 4]
    assert tokenizer.decode([3, 1, 4, 0]) == "a b"


def test_hf_template_is_applied_once_with_the_assistants_header() -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    template += "{% if add_generation_prompt %}assistant :{% endif %}"
    tokenizer = HFTokenizer(hf_tokenizer(template))
    assert tokenizer.encode_prompt([{"role": "user", "content": "a"}]) == [2, 5, 7, 3, 6, 7]


def test_hf_without_template_rejects_messages() -> None:
    with pytest.raises(UserError, match="with a chat template"):
        HFTokenizer(hf_tokenizer()).encode_prompt([{"role": "user", "content": "a"}])


def test_hf_pad_may_equal_eos_and_eos_is_required() -> None:
    assert HFTokenizer(hf_tokenizer(pad=None)).pad_id == HFTokenizer(hf_tokenizer(pad=None)).eos_id == 1
    with pytest.raises(UserError, match=r"with an EOS token, got '.*' without one"):
        HFTokenizer(hf_tokenizer(eos=None))


def test_hf_accepts_padded_vocabularies() -> None:
    tokenizer = HFTokenizer(hf_tokenizer(), vocab_size=64)
    assert tokenizer.vocab_size == 64
    assert tokenizer.decode([3, 63]) == "a"


def test_as_tokenizer() -> None:
    assert isinstance(as_tokenizer("bytes"), ByteTokenizer)
    assert isinstance(as_tokenizer(hf_tokenizer()), HFTokenizer)
    small = CharTokenizer("ab")
    assert as_tokenizer(small) is small
    assert all(isinstance(t, Tokenizer) for t in (ByteTokenizer(), small, HFTokenizer(hf_tokenizer())))
    with pytest.raises(UserError, match="expected a tokenizer, got int"):
        as_tokenizer(3)


def test_words() -> None:
    tokenizer = WordTokenizer(["the", "cat", "cats", "小", "猫", "\n", '"a":', "{", "1", "}"])
    assert tokenizer.decode(tokenizer.encode("the  cats\nthe cat")) == "the cats\nthe cat"
    assert tokenizer.decode(tokenizer.encode("小猫")) == "小猫"
    assert tokenizer.decode([2, 1, 0, 3, 99]) == "the cat"
    assert tokenizer.encode("cats") == [4]  # the longest word, not `cat` and an unknown `s`
    assert tokenizer.encode('{"a":1}') == tokenizer.encode('{ "a": 1 }')
    rebuilt = as_tokenizer(tokenizer.spec)
    assert rebuilt.encode("the cats\n小猫") == tokenizer.encode("the cats\n小猫")
    assert rebuilt.vocab_size == tokenizer.vocab_size == 12
    with pytest.raises(UserError, match="expected words of the tokenizer, got 'dog'"):
        tokenizer.encode("the dog")
    with pytest.raises(UserError, match="expected words without blanks, got 'two words'"):
        WordTokenizer(["two words"])
