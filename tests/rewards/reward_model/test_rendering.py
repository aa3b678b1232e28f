"""Conversations as tokens of a reward model."""

from __future__ import annotations

import pytest

from rlalign.errors import UserError
from rlalign.rewards.reward_model.rendering import Renderer, Sample, template_digest
from tests.reward_models.tiny import CHATML, write_tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("tokenizers")
    for name, template in (("text", None), ("chat", CHATML)):
        (root / name).mkdir()
        write_tokenizer(root / name, template=template)
    return {name: AutoTokenizer.from_pretrained(str(root / name)) for name in ("text", "chat")}


def test_text_ends_in_eos_unless_it_was_cut(tokenizers):
    tokenizer = tokenizers["text"]
    renderer = Renderer(tokenizer, "text")
    finished = renderer.ids(Sample("Judge the meal:", " clear"))
    cut = renderer.ids(Sample("Judge the meal:", " clear", cut=True))
    assert finished == [*cut, tokenizer.eos_token_id]
    assert tokenizer.decode(cut) == "Judge the meal: clear"
    # a text that ends in the EOS token gets no second one, as in RewardTrainer
    assert renderer.ids(Sample("Judge the meal:", " clear<|im_end|>")) == finished


def test_chat_is_what_apply_chat_template_returns(tokenizers):
    tokenizer = tokenizers["chat"]
    sample = Sample([{"role": "user", "content": "Judge the meal:"}], "clear")
    expected = tokenizer.apply_chat_template(sample.messages(), tokenize=True, return_dict=True)["input_ids"]
    assert Renderer(tokenizer, "chat").ids(sample) == expected
    assert tokenizer.decode(expected).endswith("clear<|im_end|>\n")


@pytest.mark.parametrize("content", ["clear", "im", "<|im_end|>", "", " ", "assistant", "a\nb"])
def test_cut_chat_ends_with_the_content(tokenizers, content):
    """A search for the content would find "im" in "<|im_end|>"; continue_final_message of transformers does."""
    renderer = Renderer(tokenizers["chat"], "chat")
    text = renderer.chat_text(Sample("Judge the meal:", content, cut=True))
    assert text == f"<|im_start|>user\nJudge the meal:<|im_end|>\n<|im_start|>assistant\n{content}"


def test_plain_and_conversational_prompts_render_equally(tokenizers):
    plain = Sample("Judge the meal:", "clear")
    messages = Sample([{"role": "user", "content": "Judge the meal:"}], [{"role": "assistant", "content": "clear"}])
    for form in ("text", "chat"):
        renderer = Renderer(tokenizers["chat"], form)
        assert renderer.ids(plain) == renderer.ids(messages)


def test_long_conversation_keeps_its_end(tokenizers):
    renderer = Renderer(tokenizers["text"], "text", max_length=5)
    sample = Sample("Judge the meal:" * 20, " clear kind")
    assert renderer.ids(sample) == renderer.all_ids(sample)[-5:]
    assert len(renderer.all_ids(sample)) > 5


def test_chat_needs_a_template_that_writes_the_answer(tokenizers):
    with pytest.raises(UserError, match="expected a chat template for conversations"):
        Renderer(tokenizers["text"], "chat")
    import copy

    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="writes the last message"):
        Renderer(tokenizer, "chat").ids(Sample("p", "c", cut=True))
    tokenizer.chat_template = "{{ raise_exception('only users') }}"
    with pytest.raises(UserError, match=r"refuses a conversation of the roles user, assistant \(only users\)"):
        Renderer(tokenizer, "chat").ids(Sample("p", "c"))


def test_template_digest_depends_on_the_template(tokenizers):
    assert template_digest(tokenizers["text"]) == ""
    assert len(template_digest(tokenizers["chat"])) == 64


def test_read_token_is_the_newline_of_the_template(tokenizers):
    assert Renderer(tokenizers["chat"], "chat").read_token() == "\n"
    assert Renderer(tokenizers["text"], "text").read_token() == "<|im_end|>"
