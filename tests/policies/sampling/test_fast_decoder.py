"""The short way to decode computes what transformers computes, for every family it takes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_sampler
from rlalign.policies.options import PolicyOptions
from rlalign.policies.sampling import prepacked_linear as products
from rlalign.policies.sampling.fast_decoder import LeanModel, is_lean
from rlalign.policies.scoring.backbone import Backbone
from rlalign.types import Sampling


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
    "llama, another activation": {"model_type": "llama", "hidden_act": "gelu"},
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
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
}
CONTEXTS, OWNER = [[3, 4, 5], [6, 7], [8, 2, 3, 4, 9]], torch.tensor([0, 0, 1, 1, 1, 2])


def policy_of(settings, lora_r=2, dtype="float32"):
    shape = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
    }
    settings = {**shape, **settings}
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(lora_r=lora_r, dtype=dtype))
    disturb(policy)
    return policy


@torch.no_grad()
def disturb(policy):
    """Move norms, biases and adapters from the ones and zeros that they start at, as an optimizer would: in place."""
    for name, p in policy.lm.named_parameters():
        if "lora" in name:
            p.add_(0.05 * torch.randn_like(p))
        elif p.ndim == 1 or p.requires_grad:
            p.add_(0.1 * torch.randn_like(p))


def gap(policy, steps=80):
    """The largest difference between our logits and those of transformers along the way of some rows."""
    with torch.no_grad():
        state, logits = policy.prefill(CONTEXTS, [2, 3, 1])
        plain = Backbone(policy.lm)
        with policy._autocast():
            hidden, expected = plain.read(CONTEXTS, policy.device)
            expected.select(OWNER)
            gaps = [(logits - plain.head(hidden)[OWNER].float()).abs().max()]
            leave = {3: [0, 2, 3, 5], 9: [1, 3], 40: [1]}
            for step in range(steps):  # past the room that the state starts with
                if step in leave:
                    state.select(torch.tensor(leave[step]))
                    expected.select(torch.tensor(leave[step]))
                drawn = torch.randint(24, (len(state.positions),))
                theirs = plain.head(plain.advance(expected, drawn))
                gaps.append((policy.decode(state, drawn) - theirs).abs().max())
    assert type(policy._decoder.backbone) is LeanModel
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize("packs", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_short_way_gives_the_logits_of_transformers(family, lora_r, packs, monkeypatch):
    monkeypatch.setattr(products, "_SMALL", 0 if packs else 1 << 16)
    policy = policy_of(FAMILIES[family], lora_r)
    assert gap(policy) < 1e-5
    disturb(policy)  # the weights are read again once they have moved
    assert gap(policy, 2) < 1e-5


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_in_bfloat16_it_stays_within_rounding(family, lora_r):
    policy = policy_of(FAMILIES[family], lora_r, "bfloat16")
    assert 0 < gap(policy) < 4e-2


@pytest.mark.parametrize("lora_r", [0, 2])
def test_reading_the_weights_does_not_age_them(lora_r):
    """A weight that seemed to have moved would be read again before every rollout, and break a backward pass."""
    policy = policy_of(FAMILIES["qwen3"], lora_r)
    for _ in range(2):
        before = [p._version for p in policy.lm.parameters()]
        policy.begin_rollout()
        policy.prefill([[3, 4]], [1])
        assert [p._version for p in policy.lm.parameters()] == before


@torch.no_grad()
def test_contexts_of_one_length_need_no_mask():
    policy = policy_of(FAMILIES["llama"])
    state, _ = policy.prefill([[3, 4], [5, 6]], [1, 2])
    plain = Backbone(policy.lm)
    _, expected = plain.read([[3, 4], [5, 6], [5, 6]], policy.device)
    for drawn in torch.randint(24, (5, 3)):
        ours, theirs = policy.decode(state, drawn), plain.head(plain.advance(expected, drawn))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert state.hidden is None


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        {"model_type": "mistral", "sliding_window": 4},
        {"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
    ids=["sliding windows", "another family", "positions that depend on the length"],
)
def test_what_it_does_not_know_takes_the_way_of_transformers(settings):
    policy = policy_of(settings)
    policy.begin_rollout()
    assert type(policy._decoder.backbone) is Backbone


def test_adapters_that_it_does_not_know_take_the_way_of_transformers():
    policy = policy_of(FAMILIES["llama"])
    assert is_lean(policy.lm)
    policy.model.disable_adapter_layers()
    assert not is_lean(policy.lm)
    policy.model.enable_adapter_layers()
    policy.model.add_adapter("second", policy.model.peft_config["default"])
    assert not is_lean(policy.lm)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_saving_keeps_the_weights_of_training(family, tmp_path: Path):
    policy = policy_of(FAMILIES[family])
    before = {n: p.clone() for n, p in policy.named_parameters()}
    policy.begin_rollout()
    policy.save_pretrained(tmp_path)
    assert before.keys() == dict(policy.named_parameters()).keys()
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_packing_the_products_are_the_same(family, monkeypatch):
    monkeypatch.setattr("rlalign.policies.sampling.prepacked_linear.packs", lambda device: False)
    policy = policy_of(FAMILIES[family])
    before = {n: p.clone() for n, p in policy.named_parameters()}
    assert gap(policy, 5) < 1e-5
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
    qkv = policy._decoder.backbone.layers[0].qkv
    assert not qkv._weight.packed
    # what is frozen is in memory once
    assert qkv._weight.value.data_ptr() == qkv._bases[0].weight.data_ptr()


@torch.no_grad()
def test_a_turn_is_read_on_from_where_the_last_one_ended():
    policy = policy_of(FAMILIES["qwen3"])
    read = []
    original = LeanModel.resume
    sampler = make_sampler("decode", policy)
    settings = {"stop_ids": frozenset({1, 2}), "sampling": Sampling(), "max_new": 12}
    generator = torch.Generator().manual_seed(0)
    contexts = [[3, 4, 5]] * 3 + [[6, 7]] * 3
    kept = [None] * 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LeanModel,
            "resume",
            lambda self, c, state: (read.append(max(map(len, c)) - state.longest), original(self, c, state))[1],
        )
        for turn in range(4):
            samples = sampler.sample(contexts, **settings, generator=generator, kept=kept)
            # the same contexts read from scratch, and the same draws
            state, logits = policy.prefill(contexts, [1] * 6)
            for column in range(samples.tokens.shape[1]):
                inside = samples.lengths > column
                scored = logits.log_softmax(-1).gather(1, samples.tokens[:, column : column + 1]).squeeze(1)
                assert ((scored - samples.logprobs[:, column])[inside]).abs().max() < 1e-5
                logits = policy.decode(state, samples.tokens[:, column])
            said = [t[:n].tolist() for t, n in zip(samples.tokens, samples.lengths.tolist(), strict=True)]
            reply = [[8 + turn] * (1 + i % 3) for i in range(6)]
            contexts = [[*c, *s, *r] for c, s, r in zip(contexts, said, reply, strict=True)]
            kept = samples.kept
    ours = read[::2]  # every other one is the reading from scratch
    assert ours[0] == 3
    assert max(ours[1:]) <= 4  # the reply, and the last token said


def test_what_was_kept_of_another_context_is_not_used():
    policy = policy_of(FAMILIES["llama"])
    settings = {"stop_ids": frozenset(), "sampling": Sampling(), "max_new": 4}
    sampler = make_sampler("decode", policy)

    def say(contexts, kept):
        return sampler.sample(contexts, **settings, generator=torch.Generator().manual_seed(3), kept=kept)

    first = say([[3, 4], [5]], [None, None])
    fresh, other = say([[9, 9, 9], [8, 8, 8, 8]], None), say([[9, 9, 9], [8, 8, 8, 8]], first.kept)
    assert torch.equal(fresh.tokens, other.tokens)
    assert torch.equal(fresh.logprobs, other.logprobs)
    assert fresh.kept is None
