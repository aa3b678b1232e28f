"""Tokenizers: round trips, special tokens, and the errors of wrong texts and arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Tokens
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, Whitespace
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


# ---- chat templates ----

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}"
    "{% endif %}{{ m.role }} : {{ m.content }} <eos> {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
QUESTION = {"role": "user", "content": "a"}


def test_a_final_message_of_the_assistant_is_continued() -> None:
    tokenizer = HFTokenizer(hf_tokenizer(TEMPLATE))
    assert tokenizer.has_chat_template
    asked = [2, 5, 7, 3, 1, 6, 7]
    assert tokenizer.encode_prompt([QUESTION]) == asked
    assert tokenizer.encode_prompt([QUESTION, {"role": "assistant", "content": "b a"}]) == [*asked, 4, 3]
    assert tokenizer.encode_prompt([QUESTION, {"role": "assistant", "content": ""}]) == asked
    answered = [QUESTION, {"role": "assistant", "content": "b"}, {"role": "user", "content": "b"}]
    assert tokenizer.encode_prompt(answered) == [*asked, 4, 1, 5, 7, 4, 1, 6, 7]  # not the last one: it is closed


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("abcdefghijklmnopqrstuvwxyz?: \n")])
def test_a_tokenizer_without_a_template_continues_the_assistant_too(tokenizer) -> None:
    def text(*messages: dict[str, str]) -> str:
        return tokenizer.decode(tokenizer.encode_prompt(list(messages)))

    answer = {"role": "assistant", "content": "b a "}
    assert text(QUESTION) == text(QUESTION, answer | {"content": ""}) == "user: a\nassistant:"
    assert text(QUESTION, answer) == "user: a\nassistant: b a "
    assert text(QUESTION, answer, QUESTION) == "user: a\nassistant: b a \nuser: a\nassistant:"


def test_a_prompt_that_begins_with_bos_gets_no_second_one() -> None:
    tokenizer = HFTokenizer(hf_tokenizer(TEMPLATE))
    formatted = tokenizer.hf.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=False)
    assert tokenizer.encode_prompt(formatted) == tokenizer.encode_prompt([QUESTION])
    assert tokenizer.encode_prompt("<bos> a") == tokenizer.encode_prompt("a") == [2, 3]
    assert tokenizer.encode_prompt("") == [2]


def test_messages_that_the_template_refuses_raise_a_user_error() -> None:
    tokenizer = HFTokenizer(hf_tokenizer(TEMPLATE))
    with pytest.raises(UserError, match=r"the roles system, user \(no system message\)") as caught:
        tokenizer.encode_prompt([{"role": "system", "content": "b"}, QUESTION])
    assert "\n" not in str(caught.value)
    broken = HFTokenizer(hf_tokenizer("{{ 1 / 0 }}"))
    with pytest.raises(UserError, match=r"chat template of .* accepts, got the roles user \(division by zero\)"):
        broken.encode_prompt([QUESTION])


def sentencepiece_tokenizer(scheme: str, model: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that writes the blank before a word into its token, as Llama 2 and Mistral do."""
    words = ["<unk>", "<eos>", "<think>", "▁", "▁the", "▁cat", "▁sat", "sat", "a", "▁a", "s", "t"]
    if model == "unigram":
        inner = Tokens(Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=0))
    else:
        inner = Tokens(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = Metaspace(prepend_scheme=scheme)
    inner.decoder = MetaspaceDecoder(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>", additional_special_tokens=["<think>"]
    )


@pytest.mark.parametrize("model", ["unigram", "words"])
@pytest.mark.parametrize("scheme", ["always", "first"])
def test_the_first_blank_of_a_completion_is_kept(scheme: str, model: str) -> None:
    tokenizer = HFTokenizer(sentencepiece_tokenizer(scheme, model))
    prompt = tokenizer.encode_prompt("the cat")
    assert prompt == [4, 5]
    assert "the cat" + tokenizer.decode([6, 1]) == "the cat sat"
    assert "the cat" + tokenizer.decode([7, 1]) == "the catsat"
    assert tokenizer.decode([]) == ""


def test_blanks_that_a_decoder_puts_between_words_are_not_generated() -> None:
    """The tokens of this tokenizer hold no blank: `the` alone is the same token at the start and after a word."""
    tokenizer = HFTokenizer(hf_tokenizer())
    assert tokenizer.decode([3]) == "a"
    assert tokenizer.decode([3, 4]) == "a b"


def test_special_tokens_are_in_the_raw_text_alone() -> None:
    tokenizer = HFTokenizer(sentencepiece_tokenizer("first", "unigram"))
    ids = [2, 6, 2, 5]
    assert tokenizer.decode(ids) == " sat cat"
    raw = tokenizer.decode_raw(ids)
    assert raw.count("<think>") == 2
    assert raw.replace("<think>", "") == " sat cat"
