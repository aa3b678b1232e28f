"""Vocabularies of teacher and policy: equal ids, equal tokens, equal ends of a turn."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from rlalign.errors import UserError
from rlalign.teachers.vocabulary import check_same_vocabulary
from rlalign.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer, WordTokenizer


def hf(words: str, **settings: object) -> HFTokenizer:
    """Return a transformers tokenizer of words."""
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words.split())}, unk_token="a"))
    return HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), **settings)  # type: ignore[arg-type]  # of a test


def test_equal_vocabularies_pass() -> None:
    check_same_vocabulary(CharTokenizer("ab"), CharTokenizer("ab"), "big")
    check_same_vocabulary(ByteTokenizer(), ByteTokenizer(), "big")
    check_same_vocabulary(hf("a b </s>"), hf("a b </s>"), "big")
    check_same_vocabulary(hf("a b </s>"), hf("a b </s>", vocab_size=64), "big")  # padded rows


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (CharTokenizer("ab"), CharTokenizer("ba"), "id 2 is 'a' for the policy and 'b' for the teacher"),
        (CharTokenizer("ab"), CharTokenizer("abc"), "id 4 is no token for the policy and 'c' for the teacher"),
        (CharTokenizer("abc"), ByteTokenizer(), "more ids differ"),
        (CharTokenizer("ab"), WordTokenizer(["a", "c"]), "id 3 is 'b' for the policy and 'c'"),
        (hf("a b c </s>"), hf("a c b </s>"), "id 1 is 'b' for the policy and 'c' for the teacher"),
        (hf("a b </s>", stop_ids=[1]), hf("a b </s>"), r"a turn ends at the ids \[1, 2\] for the policy and \[2\]"),
        (hf("a b </s>", vocab_size=64), hf("a b </s>"), "generates 64 ids and the teacher 3"),
    ],
)
def test_another_vocabulary_is_refused(student: object, teacher: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_same_vocabulary(student, teacher, "big")  # type: ignore[arg-type]  # tokenizers of several kinds
