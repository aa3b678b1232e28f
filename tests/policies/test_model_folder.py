"""Inspection of model folders: kinds, vocabulary, stop ids, weights and digests, without loading a weight."""

import hashlib
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rlalign.errors import UserError  # noqa: E402
from rlalign.policies.model_folder import inspect_model  # noqa: E402
from rlalign.policies.weight_names import WeightNames  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {"vocab_size": 300, **SIZES}
BART = {
    "vocab_size": 300, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
T5 = {"vocab_size": 300, "d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}


def test_a_complete_chat_model(chat) -> None:
    found = inspect_model(chat)
    assert (found.kind, found.model_type, found.architecture) == ("causal", "llama", "LlamaForCausalLM")
    assert (found.embedding_rows, found.output_rows, found.tokenizer.tokens) == (300, 300, 300)
    assert found.stop_ids == {0, 1}
    assert (found.dtype, found.quantization) == ("float32", None)
    assert found.weights == WeightNames()
    content = (chat / "config.json").read_bytes()
    assert found.digests["config.json"] == hashlib.sha256(content).hexdigest()
    assert len(found.tensors) == 21


@pytest.mark.parametrize(
    ("model_class", "config", "kind"),
    [
        ("GPT2LMHeadModel", ("GPT2Config", {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2}), "causal"),
        ("GPT2Model", ("GPT2Config", {"vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2}), "body"),
        ("BertForMaskedLM", ("BertConfig", BERT), "encoder"),
        ("BertModel", ("BertConfig", BERT), "encoder"),
        ("BertLMHeadModel", ("BertConfig", BERT), "encoder"),
        ("BertLMHeadModel", ("BertConfig", {**BERT, "is_decoder": True}), "causal"),
        ("BertForSequenceClassification", ("BertConfig", BERT), "classifier"),
        ("BertForTokenClassification", ("BertConfig", BERT), "classifier"),
        ("BartForConditionalGeneration", ("BartConfig", BART), "encoder-decoder"),
        ("BartForCausalLM", ("BartConfig", BART), "causal"),
        ("T5ForConditionalGeneration", ("T5Config", T5), "encoder-decoder"),
        ("T5EncoderModel", ("T5Config", T5), "other"),
    ],
)
def test_kinds(model_class, config, kind, tmp_path) -> None:
    name, settings = config
    getattr(transformers, model_class)(getattr(transformers, name)(**settings)).save_pretrained(tmp_path)
    assert inspect_model(tmp_path).kind == kind


def test_merged_experts_are_complete_and_a_missing_expert_is_named(folders, tmp_path) -> None:
    config = transformers.MixtralConfig(vocab_size=300, **SIZES, num_key_value_heads=2, num_local_experts=4)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert inspect_model(tmp_path).weights == WeightNames()
    missing = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    folders.edit_weights(tmp_path, drop=[missing])
    assert inspect_model(tmp_path).weights.missing == (missing,)


def test_no_weight_is_loaded(chat, monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    monkeypatch.setattr("transformers.modeling_utils.safe_open", refuse)
    assert inspect_model(chat).weights == WeightNames()


# ---- stop ids ----


def test_stop_ids_are_the_union_of_all_files(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "generation_config.json", eos_token_id=[2, 5])
    folders.edit_json(folder / "config.json", eos_token_id=7)
    assert inspect_model(folder).stop_ids == {0, 1, 2, 5, 7}


def test_a_stop_id_past_the_output_is_left_out(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "generation_config.json", eos_token_id=[0, 300, -1])
    assert inspect_model(folder).stop_ids == {0, 1}


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TEMPLATE, 1),
        (TEMPLATE.replace("<|end|>", "\n"), None),
        (TEMPLATE.replace("<|end|>", "<|end|>\n<eos>"), 1),
        # the generation prompt is rendered always: its header is not an end of turn
        (TEMPLATE.replace("<|end|>", "\n").replace("{% if add_generation_prompt %}", "{% if true %}"), 3),
        ("{{ raise_exception('no messages') }}", None),
        (None, None),
    ],
)
def test_the_end_of_turn_of_a_template(folders, template, end) -> None:
    from rlalign.policies.stop_tokens import end_of_turn

    assert end_of_turn(folders.bpe(template=template)) == end


# ---- tokenizers ----


def test_a_tokenizer_whose_vocabulary_is_missing_is_broken(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    (folder / "tokenizer.json").unlink()  # transformers then builds a tokenizer of three tokens
    assert inspect_model(folder).tokenizer.error == "tokenizer.json is missing"
    (folder / "vocab.txt").write_text("")
    assert "vocabulary is missing" in inspect_model(folder).tokenizer.error


def test_a_missing_tokenizer_json_is_named(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert inspect_model(folder).tokenizer.error == "tokenizer.json is missing"


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "added'])
def test_a_damaged_tokenizer_is_broken(folders, chat, tmp_path, content) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    (folder / "tokenizer.json").write_text(content)
    assert inspect_model(folder).tokenizer.error


def test_no_tokenizer_is_not_broken(folders, tmp_path) -> None:
    folders.llama(tmp_path)
    facts = inspect_model(tmp_path).tokenizer
    assert facts.hf is None
    assert facts.error is None


def test_tokens_past_the_embedding(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    hf = folders.bpe()
    hf.add_special_tokens({"pad_token": "<pad>"})
    hf.save_pretrained(folder)
    facts = inspect_model(folder).tokenizer
    assert facts.past_embedding == ("<pad>",)
    assert not facts.of_another_model
    folders.llama(folder, vocab_size=280)
    assert inspect_model(folder).tokenizer.of_another_model


# ---- files ----


def test_the_hub_cache_is_read_like_a_folder(folders, chat, tmp_path, monkeypatch) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--org--chat"
    folders.copied(chat, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for module in ("transformers.utils.hub", "huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = inspect_model("org/chat")
    expected = inspect_model(chat)
    assert (found.kind, found.stop_ids, found.weights) == (expected.kind, expected.stop_ids, expected.weights)
    assert replace(expected.tokenizer, hf=None) == replace(found.tokenizer, hf=None)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
def test_a_cut_weight_file_is_named(folders, chat, tmp_path, keep) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        inspect_model(folder)


def test_a_missing_shard_is_named(folders, tmp_path) -> None:
    folders.llama().save_pretrained(tmp_path, max_shard_size="40kB")
    assert inspect_model(tmp_path).weights == WeightNames()
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=rf"without {shard.name}"):
        inspect_model(tmp_path)


def test_files_of_a_trainer_are_no_weights(folders, tmp_path) -> None:
    folders.llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "optimizer.pt")
    for name in ("training_args.bin", "scheduler.pt", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"expected weights in model\.safetensors, got none"):
        inspect_model(tmp_path)


@pytest.mark.parametrize(
    ("file", "advice"),
    [("pytorch_model.bin", "save_pretrained"), ("model.gguf", "gguf"), ("weights.pth", "save_pretrained")],
)
def test_weights_of_another_format_are_named(folders, tmp_path, file, advice) -> None:
    folders.llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    with pytest.raises(UserError, match=rf"got {file}; .*{advice}"):
        inspect_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": "300"}, r"valid config\.json, got .*vocab_size"),
        ({"hidden_act": "nope"}, r"config\.json that LlamaForCausalLM can be built from, got .*KeyError: 'nope'"),
        ({"num_attention_heads": 0}, r"valid config\.json, got .* by zero"),
        (
            {"auto_map": {"AutoConfig": "configuration_x.X"}, "model_type": "x"},
            r"the code that auto_map .*configuration_x",
        ),
    ],
)
def test_a_config_with_an_invalid_value_is_named(folders, chat, tmp_path, changes, words) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "config.json", **changes)
    with pytest.raises(UserError, match=words) as error:
        inspect_model(folder, trust_remote_code=True)
    assert f"'{folder}'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_config_is_named(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "llama",')
    with pytest.raises(UserError, match=r"expected JSON in config\.json"):
        inspect_model(folder)
    (folder / "config.json").write_text('{"model_type": "no-such-family"}')
    with pytest.raises(UserError, match="no-such-family"):
        inspect_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"expected config\.json"):
        inspect_model(folder)


# ---- adapters ----


def adapter(base, folder, **settings):
    from peft import LoraConfig, get_peft_model

    lm = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings)
    get_peft_model(lm, config).save_pretrained(folder)
    return folder


def test_an_adapter_and_its_base(chat, tmp_path) -> None:
    found = inspect_model(adapter(chat, tmp_path / "a"))
    assert (found.kind, found.adapter.method, found.adapter.task, found.adapter.rank) == (
        "adapter", "LORA", "CAUSAL_LM", 4,
    )  # fmt: skip
    assert found.adapter.base == str(chat)
    assert found.base.kind == "causal"
    assert found.stop_ids == {0, 1}
    assert found.tokenizer.tokens == 300
    assert found.output_rows == 300
    assert len(found.tensors) == 8


def test_an_adapter_of_another_format_is_named(chat, tmp_path) -> None:
    folder = adapter(chat, tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"got adapter_model\.bin; load it once with peft"):
        inspect_model(folder)


def test_an_adapter_without_its_base_is_named(folders, chat, tmp_path) -> None:
    folder = adapter(chat, tmp_path / "a")
    folders.edit_json(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"base model '.*gone' of the adapter"):
        inspect_model(folder)
    folders.edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    with pytest.raises(UserError, match="expected a model as the base"):
        inspect_model(folder)


def test_a_base_on_a_hub_that_cannot_be_reached_is_asked_for_once(folders, chat, tmp_path, monkeypatch) -> None:
    asked = []

    def fail(url, **_):
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    monkeypatch.setattr("rlalign.policies.model_files._hub_file", lambda *_: pytest.fail("asked again"))
    folder = adapter(chat, tmp_path / "a")
    folders.edit_json(folder / "adapter_config.json", base_model_name_or_path="no-org/no-model")
    with pytest.raises(
        UserError, match=r"base model 'no-org/no-model' of the adapter.* cannot be reached \(no route\)"
    ):
        inspect_model(folder)
    assert len(asked) == 1


def test_a_base_beside_the_adapter_is_found(folders, chat, tmp_path) -> None:
    folder = adapter(chat, tmp_path / "a")
    folders.copied(chat, folder / "base")
    folders.edit_json(folder / "adapter_config.json", base_model_name_or_path="base")
    assert inspect_model(folder).base.name == str(folder / "base")
