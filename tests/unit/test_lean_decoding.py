"""The short way to decode computes what transformers computes, for every family it takes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlalign.policies import PolicyOptions
from rlalign.policies.backbone import Backbone
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.lean import LeanBackbone


class Ids:
    """A tokenizer of bare numbers."""

    vocab_size, eos_id, pad_id = 24, 1, 0

    def encode(self, text):
        return [int(t) for t in text.split()]

    encode_prompt = encode

    def decode(self, ids):
        return " ".join(map(str, ids))


FAMILIES = {
    "llama": {"model_type": "llama"},
    "llama, one head, wide, tied": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, stretched positions": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
}


def policy_of(settings, **options):
    shape = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 256,  # a width whose weight is stored with rows further apart
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
    }
    settings = {**shape, **settings}
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(lora_r=2, dtype="float32", **options))
    with torch.no_grad():
        for name, p in [*lm.named_parameters()]:
            if p.ndim == 1 or "lora" in name:  # norms, biases and adapters, which start at ones and zeros
                p.add_(0.2 * torch.randn_like(p))
    return policy


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_short_way_gives_the_logits_of_transformers(family):
    policy = policy_of(FAMILIES[family])
    contexts, owner = [[3, 4, 5], [6, 7], [8, 2, 3, 4, 9]], torch.tensor([0, 0, 1, 1, 1, 2])
    state, logits = policy.prefill(contexts, [2, 3, 1])
    plain = Backbone(policy.decoder)
    hidden, expected = plain.read(contexts, policy.device)
    expected.select(owner)
    torch.testing.assert_close(logits, plain.head(hidden)[owner], atol=1e-5, rtol=0)
    assert type(policy._decoder.backbone) is LeanBackbone
    leave = {3: [0, 2, 3, 5], 9: [1, 3], 40: [1]}
    for step in range(80):  # past the room that the cache starts with
        if step in leave:
            state.select(torch.tensor(leave[step]))
            expected.select(torch.tensor(leave[step]))
        drawn = torch.randint(24, (len(state.positions),))
        ours = policy.decode(state, drawn)
        theirs = plain.head(plain.advance(expected, drawn))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_contexts_of_one_length_need_no_mask():
    policy = policy_of(FAMILIES["llama"])
    state, _ = policy.prefill([[3, 4], [5, 6]], [1, 2])
    plain = Backbone(policy.decoder)
    _, expected = plain.read([[3, 4], [5, 6], [5, 6]], policy.device)
    for drawn in torch.randint(24, (5, 3)):
        ours, theirs = policy.decode(state, drawn), plain.head(plain.advance(expected, drawn))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert state.mask is None


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "llama", "hidden_act": "gelu"},
        {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        {"model_type": "mistral", "sliding_window": 4},
    ],
    ids=["another activation", "sliding windows", "another family"],
)
def test_what_it_does_not_know_takes_the_way_of_transformers(settings):
    policy = policy_of(settings)
    policy.begin_rollout()
    assert type(policy._decoder.backbone) is Backbone


@torch.no_grad()
def test_saving_keeps_the_weights_of_training(tmp_path: Path):
    policy = policy_of(FAMILIES["llama"])
    before = {n: p.clone() for n, p in policy.named_parameters()}
    policy.begin_rollout()
    policy.save_pretrained(tmp_path)
    assert before.keys() == dict(policy.named_parameters()).keys()
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
