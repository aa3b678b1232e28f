"""Prompts in the chat template of a policy: when they are formatted, their limits, and what rewards read."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import rlalign
from rlalign import cli
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, update
from rlalign.envs.chat_prompts import prompt_like, with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.envs.raw_texts import RawTexts
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer, HFTokenizer

WORDS = [*"0123456789+-*= \n", "<eos>", "<user>", "<assistant>", "<think>", "<system>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SMALL = {"steps": 1, "quiet": True, "evaluation__prompts": 2, "rollout__prompts": 2, "rollout__group_size": 2}


def hf(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=" "))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    special = ["<user>", "<assistant>", "<think>", "<system>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", additional_special_tokens=special)
    tokenizer.chat_template = template
    return tokenizer


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(path)
    hf().save_pretrained(path)
    return path


def test_an_environment_of_questions_uses_the_template_by_default():
    mdp = rlalign.make_mdp("math").with_tokenizer(hf())
    task = mdp.source.get("train", 0)
    assert mdp.tokenizer.decode(mdp.prompt_ids(task)) == task.prompt
    chat = with_chat_template(mdp, "auto")
    assert chat.prompt_ids(task) == ids(hf(), f"<user>{task.prompt}<eos><assistant>")
    assert (chat.max_new, chat.max_prompt) == (256, mdp.max_prompt + 3)
    assert not mdp.chat
    for plain in (with_chat_template(mdp, "off"), with_chat_template(mdp.with_tokenizer(hf(None)), "auto")):
        assert plain.prompt_ids(task) == mdp.prompt_ids(task)
        assert plain.max_new == mdp.max_new < 8
    assert with_chat_template(mdp.with_tokenizer(CharTokenizer("0123456789+-*=")), "auto").max_new == mdp.max_new


@pytest.mark.parametrize(
    "make", [lambda: rlalign.make_mdp("math?max_new=12"), lambda: rlalign.make_mdp("math").with_limits(max_new=12)]
)
def test_a_limit_that_the_user_sets_stays(make):
    assert with_chat_template(make().with_tokenizer(hf()), "auto").max_new == 12


def test_texts_to_continue_use_the_template_only_on_request():
    mdp = TextMDP(source=["1+1="], tokenizer=hf(), max_new=5)
    task = mdp.source.get("train", 0)
    assert with_chat_template(mdp, "auto").prompt_ids(task) == ids(hf(), "1+1=")
    on = with_chat_template(mdp, "on")
    assert on.prompt_ids(task) == ids(hf(), "<user>1+1=<eos><assistant>")
    assert on.max_new == 5
    messages = [{"role": "user", "content": "2"}, {"role": "assistant", "content": "3"}]
    task = with_chat_template(TextMDP(source=[{"prompt": messages}], tokenizer=hf()), "on").source.get("train", 0)
    assert on.prompt_ids(task) == ids(hf(), "<user>2<eos><assistant>3")  # messages stay as they are


def test_a_template_that_cannot_be_used_is_refused():
    with pytest.raises(UserError, match="tokenizer has a chat template, got one without"):
        with_chat_template(TextMDP(source=["1"], tokenizer=hf(None)), "on")
    with pytest.raises(UserError, match="expected an environment of one turn"):
        with_chat_template(TextMDP(source=["1"], tokenizer=hf(), max_turns=2, max_reply=3), "on")


def test_a_text_takes_the_form_of_the_tasks_prompts():
    system = {"role": "system", "content": "1"}
    question = {"role": "user", "content": "2"}
    assert prompt_like(TextMDP(source=["1"]), "3") == "3"
    new = {"role": "user", "content": "3"}
    assert prompt_like(TextMDP(source=[{"prompt": [question]}]), "3") == [new]
    assert prompt_like(TextMDP(source=[{"prompt": [system, question]}]), "3") == [system, new]


def test_the_default_leaves_the_fingerprint_of_earlier_runs():
    config = TrainConfig()
    changed = update(config, {"rollout.chat_template": "on"})
    assert fingerprint(config) != fingerprint(changed)
    # computed by the version before chat templates were a setting, with what other settings have added since left out
    assert fingerprint(config) == "428936bf988c0e0f2100f089664fe1fe5762c48d0458ee6329af1ce4b7d03801"


def test_raw_texts_hold_special_tokens_without_the_stop_token():
    tokenizer = HFTokenizer(hf())
    turns = [[ids(hf(), "<think>12<eos>"), ids(hf(), "3<think>")], [ids(hf(), "4<eos>")]]
    texts = RawTexts(tokenizer, frozenset({tokenizer.eos_id}), turns)
    assert list(texts) == ["<think>12\n3<think>", "4"]
    assert len(texts) == 2
    assert pickle.loads(pickle.dumps(texts)) == list(texts)
    chars = CharTokenizer("12")
    assert list(RawTexts(chars, frozenset({chars.eos_id}), [[[2, 3, 1]]])) == ["12"]


def test_rewards_read_the_raw_completions(folder, tmp_path):
    def thinks(completions, completions_raw, **columns):
        with (tmp_path / "seen.jsonl").open("a") as file:  # rewards may run in another process
            file.writelines(json.dumps(pair) + "\n" for pair in zip(completions, completions_raw, strict=True))
        return [float("<think>" in raw) for raw in completions_raw]

    run = rlalign.train("math?max_new=20", folder, "rloo", rewards=thinks, output=tmp_path / "run", **SMALL)
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert any("<think>" in raw for _, raw in seen)
    assert not any("<think>" in text for text, _ in seen)
    assert not any(raw.endswith("<eos>") for _, raw in seen)
    assert 0 < sum(run.metrics["reward/mean"]) <= 1


def test_a_run_and_its_generation_use_one_template(folder, tmp_path, capsys):
    settings = {**SMALL, "quiet": False}
    run = rlalign.train("math", folder, "rloo", output=tmp_path / "run", **settings)
    assert "user messages in the policy's chat template, turns of up to 256 tokens" in capsys.readouterr().out
    assert run.build_mdp().chat
    assert max(run.metrics["rollout/length"]) > 8
    off = rlalign.train("math", folder, "rloo", output=tmp_path / "off", rollout__chat_template="off", **settings)
    assert "chat template" not in capsys.readouterr().out
    assert not off.build_mdp().chat
    for trained, expected in ((run, "<user>1+1=<eos><assistant>"), (off, "1+1=")):
        mdp = trained.build_mdp()
        assert mdp.prompt_ids(rlalign.Task("1+1=")) == ids(hf(), expected)
        status = cli.main(["generate", str(trained.folder), "1+1="])
        out = capsys.readouterr().out
        assert status == 0
        assert out.startswith("1+1=\n" if trained is run else "1+1=")
        assert "no reward: 'exact_match' needs --column answer=..." in out


def test_generation_names_the_column_that_a_level_needs(folder, tmp_path, capsys):
    run = rlalign.train("math", folder, "rloo", output=tmp_path / "run", **SMALL)
    assert cli.main(["generate", str(run.folder), "1+1=", "--until", "1"]) == 2
    assert "needs 'answer': add --column answer=..." in capsys.readouterr().err
    assert cli.main(["generate", str(run.folder), "1+1=", "--column", "answer=2"]) == 0
    assert "exact_match" in capsys.readouterr().out
