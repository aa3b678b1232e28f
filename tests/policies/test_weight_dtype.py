"""Casts of weights: what loading in a dtype keeps is kept, and copies share nothing."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig, LlamaForCausalLM

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.weight_dtype import cast_weights, float32_copy
from tests.policies.test_causal import Ids

V = 64


def llama(**more):
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, initializer_range=0.1, **shape, **more))


def deepseek():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        DeepseekV3Config(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
        )
    )


@pytest.mark.parametrize("make", [llama, deepseek])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_cast_model_equals_the_model_loaded_in_that_dtype(make, dtype, tmp_path):
    lm = make()
    lm.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    cast_weights(lm, dtype)
    for values, expected in (
        (lm.named_parameters(), loaded.named_parameters()),
        (lm.named_buffers(), loaded.named_buffers()),
    ):
        values, expected = dict(values), dict(expected)
        assert values.keys() == expected.keys()
        for name, value in values.items():
            assert value.dtype == expected[name].dtype, name
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("lora_r", [0, 4])
def test_rotary_frequencies_are_not_rounded_in_bfloat16(lora_r):
    """Rounded ones are off by up to 0.4 %: at position 1,000 of a fast pair that is an angle of radians."""
    expected = llama().model.rotary_emb.inv_freq.clone()
    policy = CausalPolicy(
        llama(), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(lora_r), dtype="bfloat16")
    )
    models = [policy.lm, policy.decoding_lm, *([policy.reference] if policy.reference is not None else [])]
    for model in models:
        assert torch.equal(model.model.rotary_emb.inv_freq, expected)


@pytest.mark.parametrize("tied", [False, True])
def test_a_float32_copy_shares_nothing_and_keeps_ties(tied):
    lm = llama(tie_word_embeddings=tied).to(torch.bfloat16)
    copied = float32_copy(lm)
    assert {p.dtype for p in copied.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in copied.parameters())
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) is tied
    assert all(torch.equal(a, b.float()) for a, b in zip(copied.parameters(), lm.parameters(), strict=True))
    before = lm.lm_head.weight.clone()
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert torch.equal(lm.lm_head.weight, before)
    assert {p.dtype for p in lm.parameters()} == {torch.bfloat16}


def test_a_float32_copy_converts_buffers_with_a_second_name_and_detaches_states():
    """transformers keeps a buffer under a second name; a recurrent layer keeps a state that belongs to a graph."""
    module = torch.nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(2, dtype=torch.bfloat16))
    module.original_table = module.table
    module.state = module.weight * 2
    copied = float32_copy(module)
    assert copied.table.dtype == torch.float32
    assert copied.original_table is copied.table
    assert not copied.state.requires_grad
    assert torch.equal(copied.state, module.state)
