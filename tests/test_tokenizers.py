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


def words(template: str | None = None, pad: str | None = "<pad>", eos: str | None = "<eos>") -> PreTrainedTokenizerFast:
    """A tokenizer that begins a text with <bos> and, like a few in the wild, ends it with <eos>."""
    inner = Tokens(WordLevel(WORDS, unk_token="<pad>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, pad_token=pad, bos_token="<bos>")
    made.chat_template = template
    return made


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    wanted = text.encode("utf-8", errors="replace").decode()
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id, tokenizer.pad_id]) == wanted


@given(st.lists(st.integers(0, 258)))
def test_bytes_decode_anything(ids: list[int]) -> None:
    assert isinstance(ByteTokenizer().decode(ids), str)


def test_bytes_begin_with_bos_even_an_empty_prompt() -> None:
    assert ByteTokenizer().encode_prompt("") == [258]
    chat = [{"role": "user", "content": "hi"}]
    assert ByteTokenizer().decode(ByteTokenizer().encode_prompt(chat)) == "user: hi\nassistant:"


def test_characters() -> None:
    tokenizer = CharTokenizer("abca")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode_prompt("cab") == [4, 2, 3]
    assert tokenizer.decode([4, 1, 2, 0, 3, 99]) == "cab"
    with pytest.raises(UserError, match="'d' is not in the tokenizer's alphabet 'abc'"):
        tokenizer.encode("bad")


def test_hf_prefix_without_a_trailing_eos() -> None:
    tokenizer = HFTokenizer(words())
    assert tokenizer.encode("a b") == [3, 4]
    assert tokenizer.encode_prompt("a b") == [2, 3, 4]
    assert tokenizer.decode([3, 1, 4, 0]) == "a b"


def test_hf_template_is_applied_once_with_the_assistants_header() -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    template += "{% if add_generation_prompt %}assistant :{% endif %}"
    tokenizer = HFTokenizer(words(template))
    assert tokenizer.encode_prompt([{"role": "user", "content": "a"}]) == [2, 5, 7, 3, 6, 7]


def test_hf_without_template_refuses_messages() -> None:
    with pytest.raises(UserError, match="no chat template"):
        HFTokenizer(words()).encode_prompt([{"role": "user", "content": "a"}])


def test_hf_pad_may_equal_eos_and_eos_must_be() -> None:
    assert HFTokenizer(words(pad=None)).pad_id == HFTokenizer(words(pad=None)).eos_id == 1
    with pytest.raises(UserError, match="no EOS"):
        HFTokenizer(words(eos=None))


def test_hf_knows_of_padded_vocabularies() -> None:
    tokenizer = HFTokenizer(words(), vocab_size=64)
    assert tokenizer.vocab_size == 64
    assert tokenizer.decode([3, 63]) == "a"


def test_as_tokenizer() -> None:
    assert isinstance(as_tokenizer("bytes"), ByteTokenizer)
    assert isinstance(as_tokenizer(words()), HFTokenizer)
    small = CharTokenizer("ab")
    assert as_tokenizer(small) is small
    assert all(isinstance(t, Tokenizer) for t in (ByteTokenizer(), small, HFTokenizer(words())))
    with pytest.raises(UserError, match="int is no tokenizer"):
        as_tokenizer(3)


def test_words() -> None:
    tokenizer = WordTokenizer(["the", "cat", "cats", "小", "猫", "\n", '"a":', "{", "1", "}"])
    assert tokenizer.decode(tokenizer.encode("the  cats\nthe cat")) == "the cats\nthe cat"
    assert tokenizer.decode(tokenizer.encode("小猫")) == "小猫"
    assert tokenizer.decode([2, 1, 0, 3, 99]) == "the cat"
    assert tokenizer.encode("cats") == [4]  # the longest, not `cat` and an `s` that there is not
    assert tokenizer.encode('{"a":1}') == tokenizer.encode('{ "a": 1 }')
    again = as_tokenizer(tokenizer.spec)
    assert again.encode("the cats\n小猫") == tokenizer.encode("the cats\n小猫")
    assert again.vocab_size == tokenizer.vocab_size == 12
    with pytest.raises(UserError, match="'dog' is not among"):
        tokenizer.encode("the dog")
    with pytest.raises(UserError, match="no blanks"):
        WordTokenizer(["two words"])
