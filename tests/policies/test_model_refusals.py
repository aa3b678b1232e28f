"""Models that are refused before their weights are loaded, and models that only look broken."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rlalign.errors import FaultError, UserError  # noqa: E402
from rlalign.policies.factory import make_policy  # noqa: E402
from rlalign.policies.model_digests import write_digests  # noqa: E402
from rlalign.policies.options import AdapterOptions, PolicyOptions  # noqa: E402
from rlalign.policies.pretrained import check_pretrained  # noqa: E402
from rlalign.tokenizers import ByteTokenizer  # noqa: E402

OPTIONS = PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32")
LORA = PolicyOptions(adapter=AdapterOptions.lora(2), dtype="float32")


def refusal(folder, monkeypatch) -> str:
    """Return the message with which both doors refuse a folder; no weight may be loaded before it."""

    def load(*_, **__):
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(UserError) as first:
        check_pretrained(str(folder), OPTIONS, ByteTokenizer())
    with pytest.raises(UserError) as second:
        make_policy(str(folder), tokenizer=ByteTokenizer(), options=OPTIONS)
    assert str(first.value) == str(second.value)
    message = str(first.value)
    assert "\n" not in message
    assert str(folder) in message
    assert ";" in message  # the fix
    return message


@pytest.mark.parametrize(
    ("model_class", "words"),
    [
        ("LlamaForSequenceClassification", ["LlamaForSequenceClassification", "a classifier", "classifier?model="]),
        ("LlamaForTokenClassification", ["a classifier"]),
        ("LlamaModel", ["LlamaModel without lm_head.weight", "random"]),
    ],
)
def test_other_classes_of_a_family(folders, tmp_path, monkeypatch, model_class, words) -> None:
    folders.llama(tmp_path, model_class=model_class)
    message = refusal(tmp_path, monkeypatch)
    assert all(word in message for word in words), message


def test_a_body_with_a_tied_head_is_the_whole_model(folders, tmp_path) -> None:
    body = folders.llama(tmp_path, model_class="LlamaModel", tie_word_embeddings=True)
    folders.bpe(tmp_path)
    policy = make_policy(str(tmp_path), options=OPTIONS)
    assert torch.equal(policy.lm.lm_head.weight.detach(), body.embed_tokens.weight.detach())


def test_encoders_and_encoder_decoders(tmp_path, monkeypatch) -> None:
    bert = transformers.BertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    transformers.BertForMaskedLM(bert).save_pretrained(tmp_path / "bert")
    message = refusal(tmp_path / "bert", monkeypatch)
    assert "bidirectional" in message
    assert "set is_decoder" in message
    bert.is_decoder = True
    transformers.BertForMaskedLM(bert).save_pretrained(tmp_path / "decoder")
    distilbert = transformers.DistilBertConfig(vocab_size=300, dim=32, hidden_dim=48, n_layers=1, n_heads=4)
    transformers.DistilBertForMaskedLM(distilbert).save_pretrained(tmp_path / "distilbert")
    for name in ("decoder", "distilbert"):  # it is set already, and the family has no causal class
        assert "is_decoder" not in refusal(tmp_path / name, monkeypatch)
    t5 = transformers.T5Config(vocab_size=300, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
    transformers.T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    assert "encoder-decoder" in refusal(tmp_path / "t5", monkeypatch)


def test_a_missing_tensor(folders, chat, tmp_path, monkeypatch) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_weights(folder, drop=["layers.1.mlp.up_proj.weight"])
    assert "without model.layers.1.mlp.up_proj.weight, which would be random" in refusal(folder, monkeypatch)


@pytest.mark.parametrize("options", [OPTIONS, LORA])
def test_weights_that_are_not_finite(folders, chat, tmp_path, options) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_weights(folder, drop=["model.norm.weight"], add={"model.norm.weight": torch.full((32,), torch.nan)})
    make_policy(str(chat), options=options)  # its verdict is that of an equal configuration
    with pytest.raises(UserError, match=rf"policy '{folder}': expected finite .* in model\.norm\.weight; use"):
        make_policy(str(folder), options=options)


def test_weights_and_configuration_of_two_models(folders, chat, tmp_path, monkeypatch) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "config.json", intermediate_size=48)
    assert "stored [64, 32], model [48, 32]" in refusal(folder, monkeypatch)
    folders.edit_json(folder / "config.json", intermediate_size=64, num_hidden_layers=1)
    assert "model.layers.1." in refusal(folder, monkeypatch)  # would be left out without a warning
    folders.edit_json(folder / "config.json", num_hidden_layers=2)
    check_pretrained(str(folder), OPTIONS)
    folders.edit_weights(folder, add={"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    assert "model.layers.0.self_attn.q_proj.bias" in refusal(folder, monkeypatch)


def test_tensors_of_another_head_and_old_buffers_are_left_out(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_weights(
        folder, add={"v_head.summary.weight": torch.zeros(1, 32), "model.layers.0.rotary.inv_freq": torch.zeros(4)}
    )
    check_pretrained(str(folder), OPTIONS)


@pytest.mark.parametrize(
    ("method", "package"), [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("bitsandbytes", "bitsandbytes")]
)
def test_quantized_weights_without_their_package(folders, chat, tmp_path, monkeypatch, method, package) -> None:
    monkeypatch.setattr("rlalign.policies.model_kind.find_spec", lambda _: None)
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    message = refusal(folder, monkeypatch)
    assert f"quantized with {method}" in message
    assert f"'{package}', which is not installed" in message


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_bitsandbytes_are_trained_as_plain_weights(folders, tmp_path, bits) -> None:
    pytest.importorskip("bitsandbytes")
    config = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    folders.complete(tmp_path / "plain", hidden_size=64)
    lm = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config)
    lm.save_pretrained(tmp_path / "q")
    folders.bpe(tmp_path / "q")
    quantized = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    expected = quantized.dequantize().model.layers[0].mlp.up_proj.weight
    for options in (OPTIONS, LORA):
        policy = make_policy(str(tmp_path / "q"), options=options)
        layer = policy.lm.model.layers[0].mlp.up_proj
        torch.testing.assert_close(getattr(layer, "base_layer", layer).weight.detach(), expected.float())
        policy.save_pretrained(tmp_path / f"saved-{options.adapter.kind}")
        assert "quantization_config" not in (tmp_path / f"saved-{options.adapter.kind}" / "config.json").read_text()


# ---- tokenizers ----


def test_a_broken_tokenizer_is_not_replaced_by_the_one_of_the_environment(folders, chat, tmp_path, monkeypatch) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded" in refusal(folder, monkeypatch)


def test_a_tokenizer_of_another_model(folders, chat, tmp_path, monkeypatch) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.llama(folder, vocab_size=280)
    assert "at most 280 tokens" in refusal(folder, monkeypatch)


def test_a_folder_without_tokenizer_takes_one_of_the_same_ids(folders, tmp_path, monkeypatch) -> None:
    folders.llama(tmp_path, vocab_size=259)
    assert make_policy(str(tmp_path), tokenizer=ByteTokenizer(), options=OPTIONS).tokenizer.vocab_size == 259
    with pytest.raises(UserError, match="expected a tokenizer, which the folder does not hold"):
        make_policy(str(tmp_path), options=OPTIONS)
    folders.llama(tmp_path, vocab_size=300)  # it would generate ids from 259 on
    assert "has 259 ids for the model's 300" in refusal(tmp_path, monkeypatch)


def test_padding_and_added_tokens_past_the_embedding(folders, tmp_path) -> None:
    hf = folders.bpe(template=folders.TEMPLATE)
    hf.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<think>"]})
    hf.save_pretrained(tmp_path)
    folders.llama(tmp_path)
    tokenizer = make_policy(str(tmp_path), options=LORA).tokenizer
    assert tokenizer.pad_id == 0  # the id of <pad>, 300, has no row
    assert max(tokenizer.encode("the cat")) < 300
    for prompt in ("<think>", [{"role": "user", "content": "<think>"}]):
        with pytest.raises(UserError, match=r"300 rows, got '<think>' with the id 301"):
            tokenizer.encode_prompt(prompt)


def test_a_padding_id_past_the_end_of_the_configuration(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "config.json", pad_token_id=999)
    for options in (OPTIONS, LORA):
        saved = tmp_path / f"saved-{options.adapter.kind}"
        make_policy(str(folder), options=options).save_pretrained(saved)
        transformers.AutoModelForCausalLM.from_pretrained(saved)
    assert make_policy(str(saved / "adapter")).has_adapter  # over a base with the repaired configuration


def test_a_tokenizer_without_eos_takes_it_from_the_generation_config(folders, tmp_path, monkeypatch) -> None:
    folders.bpe(tmp_path, eos=None)
    folders.llama(tmp_path, eos=(1, 3))
    tokenizer = make_policy(str(tmp_path), options=OPTIONS).tokenizer
    assert (tokenizer.eos_id, tokenizer.stop_ids) == (0, {0, 1, 3})  # 0 of config.json
    folders.edit_json(tmp_path / "config.json", eos_token_id=None)
    folders.edit_json(tmp_path / "generation_config.json", eos_token_id=[900])
    assert "token that ends a turn, got none" in refusal(tmp_path, monkeypatch)


# ---- stop ids of a policy and of its environment ----


def test_stop_ids_reach_the_environment_and_the_saved_policy(folders, chat, tmp_path) -> None:
    from rlalign.envs.mdp import TextMDP
    from rlalign.policies.saved import saved_tokenizer

    folder = folders.copied(chat, tmp_path / "m")
    folders.edit_json(folder / "generation_config.json", eos_token_id=[0, 5])
    policy = make_policy(str(folder), options=OPTIONS)
    mdp = TextMDP(source=[{"prompt": "a"}]).with_tokenizer(policy.tokenizer)
    assert mdp.stop_ids == {0, 1, 5}
    saved = tmp_path / "saved"
    policy.save_pretrained(saved)
    assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == [0, 1, 5]
    assert json.loads((saved / "policy.json").read_text())["stop_ids"] == [0, 1, 5]
    assert saved_tokenizer(saved).stop_ids == {0, 1, 5}
    assert make_policy(str(saved), options=OPTIONS).tokenizer.stop_ids == {0, 1, 5}
    card = json.loads((saved / "policy.json").read_text())
    del card["stop_ids"]  # as earlier versions wrote it
    (saved / "policy.json").write_text(json.dumps(card))
    assert saved_tokenizer(saved).stop_ids == {0, 1, 5}


def test_a_card_that_is_damaged_or_names_no_tokenizer(folders, chat, tmp_path) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    (folder / "policy.json").write_text('{"kind": "causal"}')
    assert make_policy(str(folder), options=OPTIONS).tokenizer.vocab_size == 300
    (folder / "policy.json").write_text("{")
    with pytest.raises(UserError, match=r"expected JSON in policy\.json"):
        make_policy(str(folder), options=OPTIONS)


def test_stop_ids_of_the_card_and_of_an_adapter_reach_a_loaded_policy(folders, chat, tmp_path) -> None:
    make_policy(str(chat), options=LORA).save_pretrained(tmp_path / "first")
    adapter = tmp_path / "first" / "adapter"
    folders.edit_json(adapter / "generation_config.json", eos_token_id=[0, 7])
    saved = tmp_path / "saved"
    make_policy(str(adapter)).save_pretrained(saved)
    for folder in (saved, saved / "adapter"):
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 1, 7]
        assert make_policy(str(folder)).tokenizer.stop_ids == {0, 1, 7}
        folders.edit_json(folder / "generation_config.json", eos_token_id=[0])
        assert make_policy(str(folder)).tokenizer.stop_ids == {0, 1, 7}


# ---- checksums ----


def test_a_flipped_bit_is_found(folders, chat, tmp_path, monkeypatch) -> None:
    folder = folders.copied(chat, tmp_path / "m")
    write_digests(folder)
    check_pretrained(str(folder), OPTIONS)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    write_digests(folder)  # must not accept the new content
    with pytest.raises(FaultError, match=r"expected the sha256 .* of model\.safetensors.*copy the model again"):
        make_policy(str(folder), options=OPTIONS)
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))
    with pytest.raises(FaultError, match="delete the folder from the cache"):
        make_policy(str(folder), options=OPTIONS)


def test_a_flipped_bit_in_the_cache_of_the_hub_is_found(chat, tmp_path) -> None:
    from rlalign.policies.model_digests import check_digests
    from rlalign.policies.model_files import ModelFiles, sha256

    class Cached(ModelFiles):
        is_local = False

        def weight_files(self, stem="model"):
            return [link]

    blob = tmp_path / sha256(chat / "model.safetensors")
    blob.write_bytes((chat / "model.safetensors").read_bytes())
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    check_digests(Cached("org/name"))
    content = bytearray(blob.read_bytes())
    content[-1] ^= 64
    blob.write_bytes(content)
    with pytest.raises(FaultError, match=r"model\.safetensors"):
        check_digests(Cached("org/name"))


# ---- adapters ----


def test_an_adapter_of_a_classifier(folders, chat, tmp_path, monkeypatch) -> None:
    from peft import LoraConfig, get_peft_model

    lm = transformers.AutoModelForSequenceClassification.from_pretrained(chat)
    get_peft_model(lm, LoraConfig(r=2, task_type="SEQ_CLS")).save_pretrained(tmp_path)
    assert "task SEQ_CLS" in refusal(tmp_path, monkeypatch)
