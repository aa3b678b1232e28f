"""Recorded texts as token ids: contexts of rollouts, ends of turns, and masks of the assistant's answers."""

from __future__ import annotations

import pytest

from rlalign.envs.registration import make_mdp
from rlalign.errors import RecordError
from rlalign.recorded.encode import Encoder
from rlalign.tokenizers import HFTokenizer
from tests.recorded.conftest import CHARS, talk
from tests.test_tokenizers import sentencepiece_tokenizer


def actions(trajectory):
    """Return the ids that are trained on."""
    return [i for i, chosen in zip(trajectory.ids, trajectory.actions, strict=True) if chosen]


def test_a_completion_has_the_context_of_a_rollout_its_ids_and_the_end(chat_mdp) -> None:
    row = Encoder.of(CHARS).completion("ab>", "ba", place="here")
    assert row.ids == [*CHARS.tokenizer.encode("ab>ba"), CHARS.tokenizer.eos_id]
    assert row.actions == [False] * 3 + [True] * 3
    prompt = talk("a b")
    row = Encoder.of(chat_mdp).completion(prompt, "b", place="here")
    tokenizer = chat_mdp.tokenizer
    assert row.ids == [*tokenizer.encode_prompt(prompt), *tokenizer.encode("b"), 1]
    assert actions(row) == [*tokenizer.encode("b"), 1]


def test_a_cut_completion_has_no_end_and_an_empty_one_is_refused() -> None:
    row = Encoder.of(CHARS).completion("ab>", "ba", place="here", cut=True)
    assert actions(row) == CHARS.tokenizer.encode("ba")
    assert row.truncated
    with pytest.raises(RecordError, match="got an empty one that was cut"):
        Encoder.of(CHARS).completion("ab>", "", place="here", cut=True)
    assert actions(Encoder.of(CHARS).completion("ab>", "", place="here")) == [CHARS.tokenizer.eos_id]


def test_an_answer_that_holds_its_end_gets_no_second_one(chat_mdp) -> None:
    encoder = Encoder.of(chat_mdp)
    assert actions(encoder.completion(talk("a"), "b<|end|>", place="here")) == [*chat_mdp.tokenizer.encode("b"), 1]
    with pytest.raises(RecordError, match="expected a text without tokens that end a turn in 'completion'"):
        encoder.completion(talk("a"), "b<|end|>a", place="here")


def test_all_answers_of_a_conversation_are_actions_and_nothing_else(chat_mdp) -> None:
    messages = talk("first", "a b", "second", "b a")
    (row,) = Encoder.of(chat_mdp).conversation(messages, place="here")
    tokenizer = chat_mdp.tokenizer
    assert actions(row) == [*tokenizer.encode("a b"), 1, *tokenizer.encode("b a"), 1]
    # the whole row is what the template writes for the conversation, to its last end of turn
    whole = tokenizer.hf.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert row.ids == whole[: len(row.ids)]
    assert set(whole[len(row.ids) :]) <= set(tokenizer.encode("\n"))
    (last,) = Encoder.of(chat_mdp).conversation(messages, place="here", turns="last")
    assert last.ids == row.ids
    assert actions(last) == [*tokenizer.encode("b a"), 1]


def test_messages_after_the_last_answer_are_not_read(chat_mdp) -> None:
    (row,) = Encoder.of(chat_mdp).conversation(talk("first", "a", "second"), place="here")
    (short,) = Encoder.of(chat_mdp).conversation(talk("first", "a"), place="here")
    assert row.ids == short.ids


def test_a_template_that_rewrites_answers_gives_a_row_per_answer(rewriting_mdp) -> None:
    messages = talk("first", "think|a b", "second", "think|b a")
    rows = Encoder.of(rewriting_mdp).conversation(messages, place="here")
    tokenizer = rewriting_mdp.tokenizer
    assert [actions(row) for row in rows] == [[*tokenizer.encode(t), 1] for t in ("think|a b", "think|b a")]
    # the second prompt is what the policy reads: without the reasoning of the first answer
    assert rows[1].ids[: rows[1].prompt_length] == tokenizer.encode_prompt(messages[:3])
    assert "think" not in tokenizer.decode(rows[1].ids[: rows[1].prompt_length])
    assert [row.completion for row in rows] == ["think|a b", "think|b a"]
    assert rows[1].prompt == messages[:3]


def test_a_tokenizer_without_template_gives_a_row_per_answer() -> None:
    mdp = make_mdp("reverse", tokenizer="bytes")
    first, second = Encoder.of(mdp).conversation(talk("x", "a", "y", "b"), place="here")
    assert actions(first) == [*b"a", mdp.tokenizer.eos_id]
    assert bytes(second.ids[1 : second.prompt_length]) == b"user: x\nassistant: a\nuser: y\nassistant:"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": "a"}], "expected an answer of the assistant"),
        ([{"role": "assistant", "content": "a"}], "expected a message before the assistant's answer"),
        ([*talk("a"), {"role": "assistant", "content": "", "tool_calls": [{}]}], "calls of tools"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_refused(chat_mdp, messages, message) -> None:
    with pytest.raises(RecordError, match=message):
        Encoder.of(chat_mdp).conversation(messages, place="here")


def test_a_row_longer_than_the_model_reads_is_refused_with_the_numbers() -> None:
    assert len(Encoder.of(CHARS, positions=6).completion("ab>", "ba", place="here").ids) == 6
    with pytest.raises(RecordError, match="at most 5 tokens, as the model reads, got 3 of the prompt and 3"):
        Encoder.of(CHARS, positions=5).completion("ab>", "ba", place="here")


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_answers_of_sentencepiece_have_the_ids_that_follow_the_prompt(scheme) -> None:
    hf = sentencepiece_tokenizer(scheme, "unigram")
    hf.chat_template = (
        "{%- for m in messages -%}<think>{{ ' ' + m.content if m.role == 'user' else m.content + '<eos>' }}"
        "{%- endfor -%}{%- if add_generation_prompt -%}<think>{%- endif -%}"
    )
    encoder = Encoder.of(make_mdp("reverse", tokenizer=HFTokenizer(hf)))
    messages = talk("the cat", "sat", "the cat", "a sat")
    (row,) = encoder.conversation(messages, place="here")  # one row: each prompt begins with all ids before it
    assert row.ids == hf.apply_chat_template(messages, tokenize=True, return_dict=False)
    # 4 the, 5 cat, 6 sat after a blank, 7 sat without one, 1 the end
    assert actions(encoder.completion("the cat", "sat", place="here")) == [7, 1]
    assert actions(encoder.completion("the cat", " sat", place="here")) == [6, 1]
