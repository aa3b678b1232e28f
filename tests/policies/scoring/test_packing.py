"""The packed layout: scores and gradients equal those of transformers' own forward pass, for each architecture."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.logits import entropy, token_logprobs
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.scoring import attention, attention_modules, packing
from rlalign.policies.scoring import fused_logprobs as head
from rlalign.policies.scoring.packing import pack
from rlalign.types import Sampling

V = 23


class Ids:
    vocab_size = V
    eos_id = pad_id = 1


SHAPE = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
GATED = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GATED, attention_bias=True)),
    "smollm": lambda: LlamaForCausalLM(LlamaConfig(**GATED, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GATED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GATED, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    ),
}
# rows as (prompt, [turn, reply, turn, ...]); id 1 is padding, EOS and ordinary content at once
BATCHES = {
    "groups": [([3, 4, 5, 1], [[6, 7, 1]]), ([3, 4, 5, 1], [[8]]), ([9, 2], [[5, 5, 5, 5, 1]]), ([9, 2], [[1]])],
    "single": [([3, 4, 5], [[6, 7, 1]])],
    "unshared": [([3], [[6, 7]]), ([4, 5, 6, 7], [[8, 1]]), ([9, 9], [[2]])],
    "empty": [([3, 4, 5], [[]]), ([3, 4, 5], [[6, 7]]), ([8, 2], [[]]), ([8, 2], [[]])],
    "turns": [([3, 4], [[5, 1], [6, 7], [8]]), ([3, 4], [[5, 1], [9], [2, 2, 1]]), ([3, 4], [[6]])],
    "nested": [([3], [[4, 5, 6]]), ([3, 4], [[5, 6]]), ([3, 4], [[5, 7]]), ([3], [[4, 5, 7]])],
}


def build(family, lora=False, value="none", **options):
    torch.manual_seed(7)
    settings = PolicyOptions(adapter=AdapterOptions.lora(4 if lora else 0), dtype="float32", value=value, **options)
    policy = CausalPolicy(FAMILIES[family](), Ids(), options=settings, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():  # LoRA's B and the value head start at zero
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def batch_of(rows, extra=0):
    flat = [[*prompt, *(t for part in parts for t in part)] for prompt, parts in rows]
    width = max(map(len, flat)) + extra
    tokens, mask = torch.full((len(rows), width), 1), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (prompt, parts) in enumerate(rows):
        tokens[i, : len(flat[i])] = torch.tensor(flat[i])
        start = len(prompt)
        for k, part in enumerate(parts):
            mask[i, start : start + len(part)] = k % 2 == 0  # turns are actions, replies are not
            start += len(part)
    return tokens, torch.tensor([len(r) for r in flat]), mask


def weights_like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def loss_of(logprobs, entropies, values, final):
    """Return a loss that depends on each score, so that each gradient is tested."""
    loss = (weights_like(logprobs, 1) * logprobs).sum() + (weights_like(entropies, 2) * entropies).sum()
    if values is not None:
        loss = loss + (weights_like(values, 3) * values.square()).sum() + (weights_like(final, 4) * final).sum()
    return loss


def gradient(policy, loss):
    policy.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in policy.trainable().items() if p.grad is not None}


def policy_scores(policy, batch, sampling, values):
    s = policy.score(*batch, sampling, entropy=True, values=values)
    return s, gradient(policy, loss_of(s.logprobs, s.entropies, s.values, s.final_values))


def reference_scores(policy, batch, sampling, values, side):
    """Return scores and gradient from transformers' own forward pass: padded rows, all logits, no code of ours."""
    tokens, lengths, mask = batch
    n, width = tokens.shape
    policy.lm.set_attn_implementation("sdpa")
    shift = width - lengths if side == "left" else torch.zeros(n, dtype=torch.int64)
    column = torch.arange(width) - shift[:, None]  # column of the right-padded row at each place
    inside = (column >= 0) & (column < lengths[:, None])
    ids = torch.where(inside, tokens.gather(1, column.clamp(0, width - 1)), 1)
    positions = column.clamp(min=0)
    out = policy.lm(input_ids=ids, attention_mask=inside.long(), position_ids=positions, output_hidden_states=True)
    bodies = [out.hidden_states[-1]]
    if policy.value_body is not None:
        policy.value_body.config._attn_implementation = "sdpa"
        inputs = {"input_ids": ids, "attention_mask": inside.long(), "position_ids": positions}
        bodies.append(policy.value_body(**inputs).last_hidden_state)
    logprobs, entropies, state_values = (torch.zeros(n, width) for _ in range(3))
    rows, columns = mask.nonzero(as_tuple=True)
    before = columns - 1 + shift[rows]
    scored, z = token_logprobs(out.logits[rows, before], tokens[rows, columns], sampling)
    logprobs, entropies = (logprobs.index_put((rows, columns), x) for x in (scored, entropy(z)))
    final = None
    if values:
        state_values = state_values.index_put((rows, columns), policy.value_head(bodies[-1][rows, before]))
        final = policy.value_head(bodies[-1][torch.arange(n), lengths - 1 + shift])
    loss = loss_of(logprobs, entropies, state_values if values else None, final)
    return (logprobs, entropies, state_values, final), gradient(policy, loss)


def check_equal(policy, batch, sampling, values, side):
    scores, packed_gradient = policy_scores(policy, batch, sampling, values)
    expected, expected_gradient = reference_scores(policy, batch, sampling, values, side)
    pairs = [(scores.logprobs, expected[0]), (scores.entropies, expected[1])]
    pairs += [(scores.values, expected[2]), (scores.final_values, expected[3])] if values else []
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert packed_gradient.keys() == expected_gradient.keys()
    largest = max(g.abs().max() for g in expected_gradient.values())
    assert largest > 0.1
    for name, g in expected_gradient.items():
        assert (packed_gradient[name] - g).norm() <= 1e-5 * max(g.norm(), largest), name


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("value", ["none", "head", "model"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_equals_the_reference(family, lora, value, side):
    for name in ("groups", "empty", "turns") if value != "model" else ("groups",):
        policy = build(family, lora, value)
        assert policy._backbone.packs
        check_equal(policy, batch_of(BATCHES[name], extra=2), Sampling(), value != "none", side)


@pytest.mark.parametrize("sampling", [Sampling(0.6), Sampling(0.9, 6), Sampling(1.2, 0, 0.8), Sampling(0.7, 8, 0.9)])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradient_with_temperature_top_k_and_top_p(lora, sampling):
    check_equal(build("qwen3", lora), batch_of(BATCHES["groups"]), sampling, False, "right")


@pytest.mark.parametrize("name", BATCHES)
def test_gradient_of_each_batch(name, monkeypatch):
    monkeypatch.setattr(packing, "_MIN_SAVED_SCORES", 1)  # a bucket for each saved score
    monkeypatch.setattr(head, "_CHUNK_ROWS", 2)
    check_equal(build("smollm"), batch_of(BATCHES[name]), Sampling(), False, "left")


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradient_with_recomputed_logits_and_fused_attention(lora, monkeypatch):
    monkeypatch.setattr(head, "_SAVED_BYTES", 0)
    monkeypatch.setattr(head, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(attention, "_EAGER_BYTES", {})
    check_equal(build("qwen3", lora), batch_of(BATCHES["turns"]), Sampling(), False, "right")


@pytest.mark.parametrize("family", ["smollm", "gpt2"])
def test_gradient_with_checkpointing(family):
    policy = build(family, gradient_checkpointing=True)
    calls = []
    policy._backbone.body.register_forward_hook(lambda *_: calls.append("body"))
    layer = next(m for m in policy.lm.modules() if type(m).__name__ in ("LlamaMLP", "GPT2MLP"))
    layer.register_forward_hook(lambda *_: calls.append("layer"))
    check_equal(policy, batch_of(BATCHES["turns"]), Sampling(), False, "right")
    assert calls[:3] == ["layer", "body", "layer"]  # the layer runs again in the backward pass, the body does not
    policy.prefill([[3, 4]], [2])[0].select(torch.tensor([1]))  # decoding still keeps a cache


def test_padded_layout_can_be_selected_and_is_equal():
    policy = build("llama")
    batch = batch_of(BATCHES["groups"])
    packed, packed_gradient = policy_scores(policy, batch, Sampling(), False)
    policy.lm.set_attn_implementation("sdpa")
    assert not policy._backbone.packs
    padded, padded_gradient = policy_scores(policy, batch, Sampling(), False)
    torch.testing.assert_close(packed.logprobs, padded.logprobs, rtol=1e-5, atol=1e-5)
    for name, g in padded_gradient.items():
        torch.testing.assert_close(packed_gradient[name], g, rtol=1e-4, atol=1e-5)


def test_an_architecture_with_a_sliding_window_is_padded():
    """Packed attention would ignore a window of 3 tokens, and must not be used."""
    lm = MistralForCausalLM(MistralConfig(**GATED, sliding_window=3))
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32"))
    assert not policy._backbone.packs
    assert lm.config._attn_implementation == "sdpa"
    tokens, lengths, mask = batch_of(BATCHES["turns"])
    scored = policy.score(tokens, lengths, mask, Sampling()).logprobs
    for i, n in enumerate(lengths.tolist()):
        expected = lm(tokens[i : i + 1, :n]).logits[0].log_softmax(-1)
        actions = mask[i].nonzero().squeeze(1)
        torch.testing.assert_close(scored[i, actions], expected[actions - 1, tokens[i, actions]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "module"),
    [
        ("llama", attention_modules),
        ("qwen2", attention_modules),
        ("qwen3", attention_modules),
        ("gpt2", attention),
    ],
)
def test_a_wrong_attention_is_detected(family, module, monkeypatch, tmp_path):
    """Without the check at construction a wrong layout would train without an error."""
    correct = attention.packed_attention
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))  # no stored verdict
    monkeypatch.setattr(module, "packed_attention", lambda *a: correct(*a) * 1.01)
    assert not build(family)._backbone.packs
    monkeypatch.setattr(module, "packed_attention", correct)
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "again"))
    assert build(family)._backbone.packs


@pytest.mark.parametrize("window", [3, 64])
def test_a_window_in_a_known_attention_is_detected(window):
    """Our module must respect a window that transformers' module respects, also one longer than the check's rows."""
    shape = {**GATED, "use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    policy = CausalPolicy(
        Qwen3ForCausalLM(Qwen3Config(**shape)), Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0))
    )
    assert isinstance(policy.lm.model.layers[0].self_attn, attention_modules.PackedAttention)
    assert not policy._backbone.packs


def test_contents_of_the_packing():
    tokens, lengths, _ = batch_of(BATCHES["groups"])
    first = torch.tensor([4, 4, 2, 2])
    packed, slots = pack(tokens, first, lengths)
    assert packed.ids[0].tolist() == [3, 4, 5, 1, 9, 2, 6, 7, 1, 8, 5, 5, 5, 5, 1, 1]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 4, 2, 3, 4, 5, 6, 2]
    for i, n in enumerate(lengths.tolist()):
        assert torch.equal(packed.ids[0, slots[i, :n]], tokens[i, :n])
    assert packed.output_index.sort().values.unique().numel() == packed.ids.numel()
    single, _ = pack(tokens[:1], first[:1], lengths[:1])
    assert [b.mask for b in single.buckets] == [None]  # no shared prefix: one segment with a causal mask


def test_prompts_of_one_length_are_shared_only_if_their_tokens_are_equal():
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8], [3, 4, 9]])
    packed, slots = pack(tokens, torch.full((3,), 2), torch.full((3,), 3))
    assert packed.ids.numel() == 3 + 4  # the second row shares nothing
    assert torch.equal(packed.ids[0, slots], tokens)


@pytest.mark.parametrize("heads", [2, 6])
def test_both_attentions_of_a_bucket_are_the_formula(heads, monkeypatch):
    """Query head h reads key head h // (heads / key heads). A policy with a wrong attention would only be padded."""
    tokens, lengths, _ = batch_of(BATCHES["groups"])
    packed, _ = pack(tokens, torch.tensor([4, 4, 2, 2]), lengths)
    count, kv_heads, width = packed.ids.numel(), 2, 8
    q, k, v = (weights_like(torch.empty(count, n, width), n) for n in (heads, kv_heads, kv_heads))
    for bucket in packed.buckets:
        n, t = bucket.queries.shape
        queries, keys = q[bucket.queries.flatten()].view(n, t, heads, width), bucket.keys.flatten()
        expected = torch.zeros(n, t, heads, width)
        for h in range(heads):
            kv = h // (heads // kv_heads)
            at, values = (x[keys, kv].view(n, -1, width) for x in (k, v))
            scores = queries[:, :, h] @ at.transpose(1, 2) / width**0.5
            mask = torch.full(scores.shape[1:], -torch.inf).triu_(1) if bucket.mask is None else bucket.mask
            expected[:, :, h] = (scores + mask).softmax(-1) @ values
        for eager in (attention._EAGER_BYTES, {}):
            monkeypatch.setattr(attention, "_EAGER_BYTES", eager)
            actual = attention._bucket_attention(q, k, v, bucket, width**-0.5)
            torch.testing.assert_close(actual, expected.flatten(0, 1))
