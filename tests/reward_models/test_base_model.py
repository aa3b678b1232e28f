"""Base models: one output, float32, a padding token of their own."""

from __future__ import annotations

import pytest

from rlalign.errors import UserError
from rlalign.reward_models.base_model import EOS, PAD, base_folder, form_of, load_base, separate_pad
from tests.reward_models.tiny import CHATML, write_model


def test_pad_that_is_eos_gets_its_own_token_and_row(tmp_path):
    model, tokenizer = load_base(str(write_model(tmp_path / "m", pad_is_eos=True)), seed=0)
    rows = model.get_input_embeddings().num_embeddings
    separate_pad(model, tokenizer, "text")
    assert tokenizer.pad_token == PAD
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().num_embeddings == rows + 1


def test_pad_of_its_own_stays(tmp_path):
    model, tokenizer = load_base(str(write_model(tmp_path / "m", pad_is_eos=False)), seed=0)
    separate_pad(model, tokenizer, "text")
    assert tokenizer.pad_token == "<pad>"


def test_pad_that_the_template_writes_gets_its_own_token(tmp_path):
    model, tokenizer = load_base(str(write_model(tmp_path / "m", pad_is_eos=False, template=CHATML + "<pad>")), seed=0)
    separate_pad(model, tokenizer, "chat")
    assert tokenizer.pad_token == PAD


def test_bf16_base_is_loaded_in_float32_and_the_seed_draws_the_head(tmp_path):
    import torch

    folder = str(write_model(tmp_path / "m", dtype="bfloat16"))
    first, again, other = (load_base(folder, seed=seed)[0] for seed in (0, 0, 1))
    assert first.dtype == torch.float32
    assert first.config.num_labels == 1
    assert torch.equal(first.score.weight, again.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)


def test_encoder_without_eos_gets_one(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "day", "hello", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "m")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "m")
    model, tokenizer = load_base(str(tmp_path / "m"), seed=0)  # its two labels become one output
    separate_pad(model, tokenizer, "text")
    assert model.config.num_labels == 1
    assert tokenizer.eos_token == EOS
    assert tokenizer.pad_token == "[PAD]"


def test_adapter_missing_folder_and_incomplete_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="got an adapter"):
        base_folder(str(tmp_path / "a"))
    with pytest.raises(UserError, match="expected a folder, got none"):
        base_folder("./nowhere")
    folder = write_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"got none for model.norm.weight"):
        load_base(str(folder), seed=0)


def test_form_follows_the_data():
    class Chat:
        chat_template = CHATML

    class Plain:
        chat_template = None

    assert form_of(Chat(), "auto", messages=True) == "chat"
    assert form_of(Chat(), "auto", messages=False) == "text"
    assert form_of(Plain(), "text", messages=True) == "text"
    with pytest.raises(UserError, match="expected a chat template"):
        form_of(Plain(), "auto", messages=True)
