"""What `save_pretrained` writes is the policy: measured after loading it back, in a dtype that keeps the update."""

import json

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, YoutuConfig, YoutuForCausalLM

from rlalign.errors import FaultError
from rlalign.policies import export
from rlalign.policies.export_measure import BOUND, Distance, Measure
from rlalign.policies.factory import load, make_policy
from rlalign.policies.measured_save import save_measured
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.saved import read_card
from rlalign.policies.weight_dtype import float32_copy
from rlalign.tokenizers import CharTokenizer
from tests.policies.test_causal import Ids, perturb

V = 64
HELD_OUT = [[3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]
IDS = torch.arange(2, 32)[None]


def build(folder, *, stored=torch.bfloat16, **options):
    """Return a policy of a base that is stored in a dtype."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=V, initializer_range=0.1, **shape))
    lm.to(stored).save_pretrained(folder / "base")
    return make_policy(str(folder / "base"), tokenizer=Ids(vocab_size=V), options=PolicyOptions(**options))


@torch.no_grad()
def logprobs(model):
    return model.float()(IDS).logits.log_softmax(-1)


def trained_logprobs(policy):
    """Return log-probs of the policy's weights in float32: peft's and transformers' classes, no code of `export`."""
    options = PolicyOptions(adapter=policy.options.adapter, dtype="float32")
    same = make_policy(policy.lm.name_or_path, tokenizer=policy.tokenizer, options=options)
    same.load_trainable(policy.trainable())
    with torch.no_grad():
        return same.lm(IDS).logits.log_softmax(-1)


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("lora_r", [4, 0])
def test_the_written_weights_hold_the_update(lora_r, dtype, size, tmp_path):
    policy = build(tmp_path, adapter=AdapterOptions.lora(lora_r), dtype=dtype)
    initial = trained_logprobs(policy)
    perturb(policy, size)
    trained = trained_logprobs(policy)
    policy.save_pretrained(tmp_path / "policy", HELD_OUT)
    change = (logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")) - initial).flatten()
    assert cosine_similarity((trained - initial).flatten(), change, dim=0) > 0.99
    assert (change - (trained - initial).flatten()).abs().max() < BOUND
    measured = read_card(tmp_path / "policy")["measured"]
    assert measured["nats"] <= measured["bound"] == BOUND
    assert measured["cosine"] > 0.99
    assert measured["held_out"]
    # these updates lie below the resolution of bfloat16, or are off by more than the bound in it
    assert measured["dtype"] == "float32"
    assert "in bfloat16 the weights would be off by" in measured["reason"]
    if lora_r:
        adapter = tmp_path / "policy" / "adapter"
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        assert (logprobs(PeftModel.from_pretrained(base, adapter)) - trained).abs().max() < BOUND
        assert measured["adapter"]["base"] == str(tmp_path / "base")
        assert not (tmp_path / "policy" / "base").exists()


@pytest.mark.parametrize("lora_r", [4, 0])
def test_the_bases_dtype_is_kept_if_nothing_is_lost(lora_r, tmp_path):
    policy = build(tmp_path, adapter=AdapterOptions.lora(lora_r), dtype="bfloat16")
    policy.save_pretrained(tmp_path / "initial")
    if lora_r == 0:
        # an update that bfloat16 holds: a weight is moved to another number of bfloat16
        with torch.no_grad():
            policy.lm.lm_head.weight[5] *= 2
        policy.begin_rollout()
        trained = trained_logprobs(policy)
        policy.save_pretrained(tmp_path / "policy")
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        assert saved.dtype == torch.bfloat16
        assert (logprobs(saved) - trained).abs().max() < 1e-5
    measured = read_card(tmp_path / "initial")["measured"]
    assert (measured["dtype"], measured["cosine"]) == ("bfloat16", 1.0)
    assert measured["nats"] < 1e-5
    assert "reason" not in measured
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "initial").dtype == torch.bfloat16


def test_a_base_in_another_dtype_than_its_files_is_written_beside_the_adapter(tmp_path):
    """The frozen weights are rounded: peft's model of the adapter over the stored base would be another one."""
    policy = build(tmp_path, stored=torch.float32, adapter=AdapterOptions.lora(4), dtype="bfloat16")
    perturb(policy, 0.01)
    policy.save_pretrained(tmp_path / "policy")
    adapter = tmp_path / "policy" / "adapter"
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(tmp_path / "policy" / "base")
    assert AutoModelForCausalLM.from_pretrained(base).dtype == torch.bfloat16
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert (logprobs(adapted) - logprobs(merged)).abs().max() < 1e-4


def test_the_base_of_an_adapter_is_not_the_folder_that_its_merged_weights_replace(tmp_path):
    folder = tmp_path / "base"
    policy = build(tmp_path, stored=torch.float32, adapter=AdapterOptions.lora(4), dtype="float32")
    perturb(policy, 0.1)
    policy.save_pretrained(folder)
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    assert (logprobs(adapted) - logprobs(AutoModelForCausalLM.from_pretrained(folder))).abs().max() < 1e-4
    assert read_card(folder)["measured"]["adapter"]["base"] == base


def test_a_policy_without_a_reference_is_written_in_float32(tmp_path):
    build(tmp_path, adapter=AdapterOptions.lora(0), dtype="bfloat16")
    load(tmp_path / "base", tokenizer=Ids(vocab_size=V)).save_pretrained(tmp_path / "policy")
    measured = read_card(tmp_path / "policy")["measured"]
    assert (measured["dtype"], measured["cosine"]) == ("float32", None)
    assert "not known" in measured["reason"]


def test_weights_that_are_another_model_are_not_saved(tmp_path, monkeypatch):
    policy = build(tmp_path, adapter=AdapterOptions.lora(4), dtype="float32")
    perturb(policy)
    policy.save_pretrained(tmp_path / "policy")
    before = (tmp_path / "policy" / "model.safetensors").read_bytes()
    merge = export.merge_adapters

    def merge_twice(model):
        lm = merge(model)
        lm.lm_head.weight.data[3] += 0.1
        return lm

    monkeypatch.setattr(export, "merge_adapters", merge_twice)
    perturb(policy)
    with pytest.raises(FaultError, match="they are not saved"):
        policy.save_pretrained(tmp_path / "policy")
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.rglob("tmp-*"))


def test_the_trained_embedding_of_padding_is_kept(tmp_path):
    """Youtu sets this embedding to zero whenever a folder whose config.json has the id of padding is loaded."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8}
    widths = {"hidden_size": 32, "intermediate_size": 48, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
    config = YoutuConfig(vocab_size=V, num_hidden_layers=2, pad_token_id=0, **heads, **widths)
    YoutuForCausalLM(config).save_pretrained(tmp_path / "base")
    options = PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32")
    policy = make_policy(str(tmp_path / "base"), tokenizer=Ids(vocab_size=V), options=options)
    perturb(policy, 0.1)
    policy.save_pretrained(tmp_path / "policy", HELD_OUT)
    trained = policy.lm.get_input_embeddings().weight
    assert trained[0].abs().max() > 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert torch.equal(loaded.get_input_embeddings().weight, trained)
    assert "without pad_token_id" in read_card(tmp_path / "policy")["measured"]["reason"]


def test_the_padding_id_of_a_text_configuration_is_removed_too(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"pad_token_id": 0, "vocab_size": 9}}')
    assert export._remove_padding_id(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"text_config": {"vocab_size": 9}}
    assert not export._remove_padding_id(tmp_path)


def test_weights_of_an_earlier_policy_are_replaced(tmp_path):
    """transformers prefers model.safetensors to the shards of an index, which a larger policy writes."""
    folder = tmp_path / "policy"
    build(tmp_path, adapter=AdapterOptions.lora(4), dtype="float32").save_pretrained(folder)
    assert (folder / "adapter").is_dir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text("{}")
    policy = build(tmp_path, adapter=AdapterOptions.lora(0), dtype="float32")
    perturb(policy)
    policy.save_pretrained(folder)
    assert [p.name for p in folder.glob("model*")] == ["model.safetensors"]
    assert not (folder / "adapter").exists()
    expected = policy.prefill([[3, 4]], [1])[1]
    assert torch.allclose(load(folder, tokenizer=Ids(vocab_size=V)).prefill([[3, 4]], [1])[1], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lora_r", [0, 4])
def test_the_bases_dtype_is_that_of_its_files(lora_r, dtype, tmp_path):
    policy = build(tmp_path, stored=dtype, adapter=AdapterOptions.lora(lora_r), dtype="float32")
    assert policy.stored_dtype == dtype


def test_a_distance_is_infinite_for_other_vocabularies_and_for_nan(tmp_path):
    policy = build(tmp_path, adapter=AdapterOptions.lora(0), dtype="float32")
    measure = Measure(policy, [])
    assert measure.num_tokens == 61
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert measure.distance(lm).nats < 1e-5
    assert measure.distance(lm).cosine == 1.0
    # larger models round by more than _NOISE, also if nothing was trained, as by best_of_n
    with torch.no_grad():
        lm.lm_head.weight *= 1 + 1e-4
    untrained = measure.distance(lm)
    assert 1e-5 < untrained.nats < 1e-3
    assert untrained.loses_nothing
    lm.lm_head.weight.data[0] = float("nan")
    assert measure.distance(lm).nats == float("inf")
    lm.resize_token_embeddings(V + 8, mean_resizing=False)
    assert measure.distance(lm) == Distance(float("inf"), None)
    assert not Distance(0.0, None).loses_nothing
    assert not Distance(2e-3, 1.0).is_policy
    assert not Distance(0.0, 0.98).loses_nothing


def test_positions_that_float32_does_not_determine_are_not_compared(tmp_path):
    """Merging rounds the weights: where the model multiplies rounding by 1e4, a right save must not be refused."""

    def amplify(_, inputs):
        hidden = inputs[0].clone()
        hidden[:, 18:] += 1e4 * (hidden[:, 18:] - hidden[:, 18:].to(torch.float16))
        return hidden, *inputs[1:]

    policy = build(tmp_path, adapter=AdapterOptions.lora(0), dtype="float32")
    policy.lm.model.layers[0].register_forward_pre_hook(amplify)
    measure = Measure(policy, [])
    assert measure.num_tokens == 61 - 14  # one row of 32 tokens has 14 of them from 18 on
    assert measure.bound == BOUND
    merged = float32_copy(policy.lm)
    for parameter in merged.parameters():
        parameter.mul_(1 + 1e-7)
    assert measure.distance(merged).is_policy
    merged.lm_head.weight.mul_(1.01)
    assert not measure.distance(merged).is_policy


def test_a_model_that_float32_does_not_determine_is_compared_at_all_positions(tmp_path):
    policy = build(tmp_path, adapter=AdapterOptions.lora(0), dtype="float32")
    policy.lm.lm_head.register_forward_pre_hook(lambda _, x: (x[0] + 1e3 * (x[0] - x[0].to(torch.float16)), *x[1:]))
    measure = Measure(policy, [])
    assert measure.bound == 1e-2
    assert measure.num_tokens == 61
    policy.lm.lm_head.weight.data[3] = float("nan")
    broken = Measure(policy, [])
    assert broken.num_tokens == 61
    assert not broken.distance(float32_copy(policy.lm)).is_policy


@pytest.mark.parametrize("kind", ["gru", "tiny", "tabular"])
def test_a_measured_save_stores_the_distance_of_every_kind(kind, tmp_path):
    policy = make_policy(kind, tokenizer=CharTokenizer("abc"))
    perturb(policy)
    line = save_measured(policy, tmp_path / "policy", [[2, 3], [4]])
    measured = read_card(tmp_path / "policy")["measured"]
    assert measured["nats"] <= measured["bound"] == BOUND
    assert line == f"saved policy/ in float32: {measured['nats']:.1e} nats from the policy"


def test_a_measured_save_fails_if_the_loaded_policy_is_another_one(tmp_path, monkeypatch):
    policy = make_policy("gru", tokenizer=CharTokenizer("abc"))
    other = make_policy("gru", tokenizer=CharTokenizer("abc"), seed=1)
    monkeypatch.setattr("rlalign.policies.measured_save.load", lambda *_, **__: other)
    with pytest.raises(FaultError, match="last checkpoint"):
        save_measured(policy, tmp_path / "policy", [[2, 3], [4]])
