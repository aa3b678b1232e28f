"""The optimized decoder computes the logits of transformers, for each supported family."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.sampling import prepacked_linear
from rlalign.policies.sampling.fast_decoder import FastDecoder, is_supported
from rlalign.policies.sampling.library_decoder import LibraryDecoder
from rlalign.policies.scoring.backbone import Backbone
from rlalign.types import Sampling


class Ids:
    """A tokenizer whose texts are token ids in decimal."""

    vocab_size, eos_id, pad_id = 24, 1, 0

    def encode(self, text):
        return [int(t) for t in text.split()]

    encode_prompt = encode

    def decode(self, ids):
        return " ".join(map(str, ids))


FAMILIES = {
    "llama": {"model_type": "llama"},
    "llama, one key head, tied": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, other activation": {"model_type": "llama", "hidden_act": "gelu"},
    "llama, scaled positions": {
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
CONTEXTS = [[3, 4, 5], [6, 7], [8, 2, 3, 4, 9]]
OWNER = torch.tensor([0, 0, 1, 1, 1, 2])  # the context of each row


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
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora_r), dtype=dtype))
    disturb(policy)
    return policy


@torch.no_grad()
def disturb(policy):
    """Change norms, biases and adapters from their initial ones and zeros, in place as an optimizer does."""
    for name, p in policy.lm.named_parameters():
        if "lora" in name:
            p.add_(0.05 * torch.randn_like(p))
        elif p.ndim == 1 or p.requires_grad:
            p.add_(0.1 * torch.randn_like(p))


def gap(policy, steps=80):
    """Return the largest difference between our logits and those of transformers over a rollout of some rows."""
    with torch.no_grad():
        state, logits = policy.prefill(CONTEXTS, [2, 3, 1])
        plain = LibraryDecoder(Backbone(policy.lm))
        with policy._autocast():
            hidden, expected = plain.read(CONTEXTS, [2, 3, 1])
            gaps = [(logits - plain.head(hidden)[OWNER].float()).abs().max()]
            remaining = {3: [0, 2, 3, 5], 9: [1, 3], 40: [1]}  # step -> rows that remain
            for step in range(steps):  # more steps than the cache has slots at first
                if step in remaining:
                    state.select(torch.tensor(remaining[step]))
                    expected.select(torch.tensor(remaining[step]))
                drawn = torch.randint(24, (len(state.positions),))
                theirs = plain.head(plain.advance(expected, drawn))
                gaps.append((policy.decode(state, drawn) - theirs).abs().max())
    assert type(policy._decoding.decoder) is FastDecoder
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize(
    ("family", "lora_r", "prepack"),
    [
        pytest.param(
            family, lora_r, prepack,
            marks=() if (lora_r and not prepack) or (prepack and family in ("llama", "gpt2")) else (pytest.mark.slow,),
            id=f"{family}-{lora_r}-{'packed' if prepack else 'plain'}",
        )
        for family, lora_r, prepack in itertools.product(FAMILIES, (0, 2), (False, True))
    ],
)  # fmt: skip
def test_logits_equal_those_of_transformers(family, lora_r, prepack, monkeypatch):
    monkeypatch.setattr(prepacked_linear, "_SMALL", 0 if prepack else 1 << 16)
    policy = policy_of(FAMILIES[family], lora_r)
    assert gap(policy) < 1e-5
    disturb(policy)  # changed weights are read again
    assert gap(policy, 2) < 1e-5


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_bfloat16_logits_differ_by_rounding_only(family, lora_r):
    policy = policy_of(FAMILIES[family], lora_r, "bfloat16")
    assert 0 < gap(policy) < 4e-2


@pytest.mark.parametrize("lora_r", [0, 2])
def test_reading_weights_does_not_change_their_version_counters(lora_r):
    """A weight with a new version would be read again before each rollout, and break a backward pass."""
    policy = policy_of(FAMILIES["qwen3"], lora_r)
    for _ in range(2):
        before = [p._version for p in policy.lm.parameters()]
        policy.begin_rollout()
        policy.prefill([[3, 4]], [1])
        assert [p._version for p in policy.lm.parameters()] == before


@torch.no_grad()
def test_contexts_of_equal_length_need_no_mask():
    policy = policy_of(FAMILIES["llama"])
    state, _ = policy.prefill([[3, 4], [5, 6]], [1, 2])
    plain = LibraryDecoder(Backbone(policy.lm))
    _, expected = plain.read([[3, 4], [5, 6], [5, 6]], [1, 1, 1])
    for drawn in torch.randint(24, (5, 3)):
        ours, theirs = policy.decode(state, drawn), plain.head(plain.advance(expected, drawn))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert state.mask is None


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        {"model_type": "mistral", "sliding_window": 4},
        {"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
    ids=["sliding windows", "other family", "positions that depend on the length"],
)
def test_unsupported_models_decode_with_transformers(settings):
    policy = policy_of(settings)
    policy.begin_rollout()
    assert type(policy._decoding.decoder) is LibraryDecoder


def test_unusual_adapters_are_unsupported():
    policy = policy_of(FAMILIES["llama"])
    assert is_supported(policy.lm)
    policy.model.disable_adapter_layers()
    assert not is_supported(policy.lm)
    policy.model.enable_adapter_layers()
    policy.model.add_adapter("second", policy.model.peft_config["default"])
    assert not is_supported(policy.lm)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_saving_does_not_change_the_training_weights(family, tmp_path: Path):
    policy = policy_of(FAMILIES[family])
    before = {n: p.clone() for n, p in policy.named_parameters()}
    policy.begin_rollout()
    policy.save_pretrained(tmp_path)
    assert before.keys() == dict(policy.named_parameters()).keys()
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_prepacking_the_logits_are_the_same(family, monkeypatch):
    monkeypatch.setattr(prepacked_linear, "can_prepack", lambda device, dtype: False)
    policy = policy_of(FAMILIES[family])
    before = {n: p.clone() for n, p in policy.named_parameters()}
    assert gap(policy, 5) < 1e-5
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
    qkv = policy._decoding.decoder.layers[0].qkv
    assert not qkv._weight.packed
    # frozen weights are in memory once
    assert qkv._weight.value.data_ptr() == qkv._bases[0].weight.data_ptr()


@torch.no_grad()
def test_a_turn_reads_only_the_tokens_that_are_not_cached():
    policy = policy_of(FAMILIES["qwen3"])
    counts = []  # tokens read per call
    original = FastDecoder.extend_cache
    sampler = make_sampler("decode", policy)
    settings = {"stop_ids": frozenset({1, 2}), "sampling": Sampling(), "max_new": 12}
    generator = torch.Generator().manual_seed(0)
    contexts = [[3, 4, 5]] * 3 + [[6, 7]] * 3
    cached = [None] * 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FastDecoder,
            "extend_cache",
            lambda self, c, cache: (counts.append(max(map(len, c)) - cache.used), original(self, c, cache))[1],
        )
        for turn in range(4):
            samples = sampler.sample(contexts, **settings, generator=generator, cached=cached)
            # the same contexts read without a cache, and the same tokens
            state, logits = policy.prefill(contexts, [1] * 6)
            for column in range(samples.tokens.shape[1]):
                inside = samples.lengths > column
                scored = logits.log_softmax(-1).gather(1, samples.tokens[:, column : column + 1]).squeeze(1)
                assert ((scored - samples.logprobs[:, column])[inside]).abs().max() < 1e-5
                logits = policy.decode(state, samples.tokens[:, column])
            completions = [t[:n].tolist() for t, n in zip(samples.tokens, samples.lengths.tolist(), strict=True)]
            replies = [[8 + turn] * (1 + i % 3) for i in range(6)]
            contexts = [[*c, *s, *r] for c, s, r in zip(contexts, completions, replies, strict=True)]
            cached = samples.cached
    with_cache = counts[::2]  # every second call reads without a cache
    assert with_cache[0] == 3
    assert max(with_cache[1:]) <= 4  # the reply, and the last sampled token


def test_a_cached_prefix_of_another_context_is_not_used():
    policy = policy_of(FAMILIES["llama"])
    settings = {"stop_ids": frozenset(), "sampling": Sampling(), "max_new": 4}
    sampler = make_sampler("decode", policy)

    def sample(contexts, cached):
        return sampler.sample(contexts, **settings, generator=torch.Generator().manual_seed(3), cached=cached)

    first = sample([[3, 4], [5]], [None, None])
    uncached = sample([[9, 9, 9], [8, 8, 8, 8]], None)
    samples = sample([[9, 9, 9], [8, 8, 8, 8]], first.cached)
    assert torch.equal(uncached.tokens, samples.tokens)
    assert torch.equal(uncached.logprobs, samples.logprobs)
    assert uncached.cached is None


def test_the_caches_of_finished_rows_are_given_up():
    """Contexts of one length form a group: one without a context, and rows that no context is in, are removed."""
    policy = policy_of(FAMILIES["qwen3"], 0)
    decoder = LibraryDecoder(Backbone(policy.lm, replace(policy.paths, decoding="equal")))
    with torch.no_grad():
        _, state = decoder.read(CONTEXTS, [2, 3, 1])
    assert sum(group.size for group in state.groups) == 6
    state.select(torch.tensor([0, 3, 4]))
    assert sum(group.size for group in state.groups) == 3
    places = [state.place[state.members(i)].tolist() for i in range(len(state.groups))]
    assert sorted(places) == [[0], [0, 1]]


def test_contexts_are_known_before_a_token_is_appended():
    policy = policy_of(FAMILIES["qwen3"], 0)
    decoder = LibraryDecoder(Backbone(policy.lm, replace(policy.paths, decoding="reread", rows="keep")))
    with torch.no_grad():
        _, state = decoder.read(CONTEXTS, [1, 1, 1])
    assert state.full_contexts(torch.tensor([2, 0])) == [CONTEXTS[2], CONTEXTS[0]]
