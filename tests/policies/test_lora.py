"""LoRA layers: which layers are adapted, and merging them where layers share weights."""

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    AutoModelForCausalLM,
    DbrxConfig,
    GptOssConfig,
    JambaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    MambaConfig,
    MixtralConfig,
    Zamba2Config,
)

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_policy
from rlalign.policies.lora import describe_adapter, merged_weights
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.scoring.linear import LoraLinear
from tests.policies.test_causal import Ids, build, perturb

V = 64
IDS = torch.arange(3, 11)[None]
TOKENS = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    # its layers read the weight of dt_proj and do not call it
    "jamba": JambaConfig(
        **TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        use_mamba_kernels=False,
        mamba_d_state=8,
        mamba_dt_rank=4,
    ),
    # layers 1 and 5 share their attention and their MLP
    "zamba2": Zamba2Config(
        **TOKENS,
        hidden_size=32,
        num_hidden_layers=6,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"],
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=4,
        mamba_headdim=16,
        num_mem_blocks=2,
        use_mem_rope=True,
        adapter_rank=4,
        attention_head_dim=16,
    ),
    "mixtral": MixtralConfig(
        **TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    ),
    # its experts have biases beside the weights that peft registers again in each forward pass
    "gpt_oss": GptOssConfig(
        **TOKENS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "mamba": MambaConfig(**TOKENS, hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba2": Mamba2Config(
        **TOKENS, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16, n_groups=1
    ),
}


def drawn(name: str):
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(CONFIGS[name])
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return lm


@torch.no_grad()
def logprobs(model):
    return model(input_ids=IDS, use_cache=False).logits.log_softmax(-1)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_adapter_has_an_effect_and_is_merged(name, tmp_path):
    lm = drawn(name)
    initial = logprobs(lm.eval())
    policy = CausalPolicy(
        lm, Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32"), seed=1
    )
    assert (logprobs(policy.lm) - initial).abs().max() < 1e-4  # a new adapter adds nothing
    perturb(policy)
    policy.lm(input_ids=IDS, use_cache=False).logits.log_softmax(-1).square().sum().backward()
    assert not [n for n, p in policy.trainable().items() if "lora_B" in n and (p.grad is None or not p.grad.any())]
    trained = logprobs(policy.lm)
    assert (trained - initial).abs().max() > 0.5
    policy.save_pretrained(tmp_path / "policy")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    assert (logprobs(saved) - trained).abs().max() < 1e-3
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "policy" / "base").eval()
    assert torch.equal(logprobs(base), initial)
    assert (logprobs(PeftModel.from_pretrained(base, tmp_path / "policy" / "adapter")) - trained).abs().max() < 1e-3


def test_layers_that_share_a_weight_share_their_adapter():
    policy = CausalPolicy(
        drawn("zamba2"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32")
    )
    by_weight: dict[int, set[int]] = {}
    for layer in policy.lm.modules():
        if isinstance(layer, BaseTunerLayer):
            by_weight.setdefault(id(layer.get_base_layer().weight), set()).add(id(layer.lora_A["default"].weight))
    layers = sum(isinstance(m, BaseTunerLayer) for m in policy.lm.modules())
    assert len(by_weight) < layers
    assert all(len(adapters) == 1 for adapters in by_weight.values())


def test_layers_that_are_not_called_are_not_adapted():
    policy = CausalPolicy(
        drawn("jamba"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32")
    )
    assert not [name for name in policy.trainable() if "dt_proj" in name]
    assert [name for name in policy.trainable() if "x_proj" in name]


def test_every_linear_layer_of_a_plain_model_is_adapted_by_the_fused_layer():
    policy = build("llama+lora")
    adapted = [m for m in policy.lm.modules() if isinstance(m, BaseTunerLayer)]
    assert len(adapted) == 14
    assert {type(m) for m in adapted} == {LoraLinear}
    head_and_embeddings = 2 * policy.input_embeddings().numel()
    total = sum(p.numel() for n, p in policy.lm.named_parameters() if "lora_" not in n)
    norms = sum(p.numel() for n, p in policy.lm.named_parameters() if "norm" in n)
    share = (total - head_and_embeddings - norms) / total
    assert (
        describe_adapter(policy.model, policy.options.adapter)
        == f"LoRA of rank 4 adapts layers with {share:.0%} of the parameters"
    )


def test_routed_experts_are_adapted_and_layers_that_stay_frozen_are_named():
    policy = CausalPolicy(
        drawn("mixtral"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32")
    )
    assert len([name for name in policy.trainable() if ".experts." in name]) == 8  # 2 layers, 2 parameters, A and B
    assert describe_adapter(policy.model, policy.options.adapter).endswith("of the parameters")
    policy = CausalPolicy(
        drawn("mixtral"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16")
    )
    assert "use --model.dtype float32" in describe_adapter(
        policy.model, policy.options.adapter
    )  # peft adapts these in any dtype
    policy = CausalPolicy(
        drawn("jamba"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32")
    )
    assert describe_adapter(policy.model, policy.options.adapter).endswith("; frozen: mamba.dt_proj")
    policy = CausalPolicy(
        drawn("jamba"), Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16")
    )
    assert not [name for name in policy.trainable() if ".experts." in name]
    assert "frozen: experts.down_proj, experts.gate_up_proj, mamba.dt_proj" in describe_adapter(
        policy.model, policy.options.adapter
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_routed_experts_of_two_dimensions_stay_frozen_and_are_named(dtype):
    attention = {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}
    experts = {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}
    config = DbrxConfig(**TOKENS, d_model=32, n_heads=4, n_layers=2, attn_config=attention, ffn_config=experts)
    lm = AutoModelForCausalLM.from_config(config)
    policy = CausalPolicy(lm, Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype=dtype))
    assert torch.isfinite(logprobs(policy.lm)).all()
    assert describe_adapter(policy.model, policy.options.adapter).endswith("; frozen: mlp.v1, mlp.w1, mlp.w2")


def test_a_value_model_and_a_continued_adapter_hold_the_adapters_of_routed_experts(tmp_path):
    options = PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32", value="model")
    policy = CausalPolicy(drawn("mixtral"), Ids(vocab_size=V), options=options)
    perturb(policy)
    policy.save_pretrained(tmp_path / "policy")
    continued = make_policy(str(tmp_path / "policy" / "adapter"), tokenizer=Ids(vocab_size=V), options=options)
    assert (logprobs(continued.lm) - logprobs(policy.lm)).abs().max() < 1e-4
    merged = merged_weights(policy.lm)
    plain = drawn("mixtral")
    plain.load_state_dict(merged, strict=False)
    assert merged.keys() == dict(plain.named_parameters()).keys()
    assert (logprobs(plain.eval()) - logprobs(policy.lm)).abs().max() < 1e-4


def test_merged_weights_are_float32_over_bfloat16_weights():
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=1))
    policy = CausalPolicy(
        lm, Ids(vocab_size=V), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16")
    )
    perturb(policy, 1e-3)
    layer = policy.lm.model.layers[0].mlp.up_proj
    expected = layer.base_layer.weight.float() + 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    weights = merged_weights(policy.lm.model)
    assert torch.equal(weights["layers.0.mlp.up_proj.weight"], expected)
    assert {w.dtype for w in weights.values()} == {torch.float32}
