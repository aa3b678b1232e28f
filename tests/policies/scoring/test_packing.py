"""The fast update is the plain one: the same scores and the same gradient, for every architecture that takes it."""

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
from rlalign.policies.options import PolicyOptions
from rlalign.policies.scoring import attention, packing
from rlalign.policies.scoring import fused_logprobs as head
from rlalign.policies.scoring.fused_logprobs import fused_logprobs
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
# rows as (prompt, [turn, reply, turn, ...]); ids 1 are pad, EOS and ordinary content at once
BATCHES = {
    "groups": [([3, 4, 5, 1], [[6, 7, 1]]), ([3, 4, 5, 1], [[8]]), ([9, 2], [[5, 5, 5, 5, 1]]), ([9, 2], [[1]])],
    "single": [([3, 4, 5], [[6, 7, 1]])],
    "alone": [([3], [[6, 7]]), ([4, 5, 6, 7], [[8, 1]]), ([9, 9], [[2]])],
    "empty": [([3, 4, 5], [[]]), ([3, 4, 5], [[6, 7]]), ([8, 2], [[]]), ([8, 2], [[]])],
    "turns": [([3, 4], [[5, 1], [6, 7], [8]]), ([3, 4], [[5, 1], [9], [2, 2, 1]]), ([3, 4], [[6]])],
    "nested": [([3], [[4, 5, 6]]), ([3, 4], [[5, 6]]), ([3, 4], [[5, 7]]), ([3], [[4, 5, 7]])],
}


def build(family, lora=False, value="none", **options):
    torch.manual_seed(7)
    settings = PolicyOptions(lora_r=4 if lora else 0, dtype="float32", value=value, **options)
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
        at = len(prompt)
        for k, part in enumerate(parts):
            mask[i, at : at + len(part)] = k % 2 == 0
            at += len(part)
    return tokens, torch.tensor([len(r) for r in flat]), mask


def weights_like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def loss_of(logprobs, entropies, values, final):
    """Any function of all scores will do: it shows each gradient."""
    loss = (weights_like(logprobs, 1) * logprobs).sum() + (weights_like(entropies, 2) * entropies).sum()
    if values is not None:
        loss = loss + (weights_like(values, 3) * values.square()).sum() + (weights_like(final, 4) * final).sum()
    return loss


def gradient(policy, loss):
    policy.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in policy.trainable().items() if p.grad is not None}


def fast(policy, batch, sampling, values):
    s = policy.score(*batch, sampling, entropy=True, values=values)
    return s, gradient(policy, loss_of(s.logprobs, s.entropies, s.values, s.final_values))


def plain(policy, batch, sampling, values, side):
    """transformers' own forward of whole rows padded on a side, every logit, no head or layout of ours."""
    tokens, lengths, mask = batch
    n, width = tokens.shape
    policy.lm.set_attn_implementation("sdpa")
    shift = width - lengths if side == "left" else torch.zeros(n, dtype=torch.int64)
    column = torch.arange(width) - shift[:, None]  # which column of the row stands here
    inside = (column >= 0) & (column < lengths[:, None])
    ids = torch.where(inside, tokens.gather(1, column.clamp(0, width - 1)), 1)
    positions = column.clamp(min=0)
    out = policy.lm(input_ids=ids, attention_mask=inside.long(), position_ids=positions, output_hidden_states=True)
    bodies = [out.hidden_states[-1]]
    if policy.value_body is not None:
        policy.value_body.config._attn_implementation = "sdpa"
        given = {"input_ids": ids, "attention_mask": inside.long(), "position_ids": positions}
        bodies.append(policy.value_body(**given).last_hidden_state)
    logprobs, entropies, found = (torch.zeros(n, width) for _ in range(3))
    rows, columns = mask.nonzero(as_tuple=True)
    before = columns - 1 + shift[rows]
    scored, z = token_logprobs(out.logits[rows, before], tokens[rows, columns], sampling)
    logprobs, entropies = (logprobs.index_put((rows, columns), x) for x in (scored, entropy(z)))
    final = None
    if values:
        found = found.index_put((rows, columns), policy.value_head(bodies[-1][rows, before]))
        final = policy.value_head(bodies[-1][torch.arange(n), lengths - 1 + shift])
    loss = loss_of(logprobs, entropies, found if values else None, final)
    return (logprobs, entropies, found, final), gradient(policy, loss)


def check_equal(policy, batch, sampling, values, side):
    got, fast_gradient = fast(policy, batch, sampling, values)
    want, plain_gradient = plain(policy, batch, sampling, values, side)
    pairs = [(got.logprobs, want[0]), (got.entropies, want[1])]
    pairs += [(got.values, want[2]), (got.final_values, want[3])] if values else []
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert fast_gradient.keys() == plain_gradient.keys()
    largest = max(g.abs().max() for g in plain_gradient.values())
    assert largest > 0.1
    for name, g in plain_gradient.items():
        assert (fast_gradient[name] - g).norm() <= 1e-5 * max(g.norm(), largest), name


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("value", ["none", "head", "model"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_is_the_plain_one(family, lora, value, side):
    for name in ("groups", "empty", "turns") if value != "model" else ("groups",):
        policy = build(family, lora, value)
        assert policy._backbone.packs
        check_equal(policy, batch_of(BATCHES[name], extra=2), Sampling(), value != "none", side)


@pytest.mark.parametrize("sampling", [Sampling(0.6), Sampling(0.9, 6), Sampling(1.2, 0, 0.8), Sampling(0.7, 8, 0.9)])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradient_under_processing(lora, sampling):
    check_equal(build("qwen3", lora), batch_of(BATCHES["groups"]), sampling, False, "right")


@pytest.mark.parametrize("name", BATCHES)
def test_gradient_of_every_batch(name, monkeypatch):
    monkeypatch.setattr(packing, "_WORTH", 1)  # every bucket that saves anything
    monkeypatch.setattr(head, "_ROWS", 2)
    check_equal(build("smollm"), batch_of(BATCHES[name]), Sampling(), False, "left")


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradient_with_logits_computed_again_and_blocked_attention(lora, monkeypatch):
    monkeypatch.setattr(head, "_KEPT_BYTES", 0)
    monkeypatch.setattr(head, "_ROWS", 3)
    monkeypatch.setattr(packing, "_PLAIN_BYTES", {})
    check_equal(build("qwen3", lora), batch_of(BATCHES["turns"]), Sampling(), False, "right")


@pytest.mark.parametrize("family", ["smollm", "gpt2"])
def test_gradient_with_checkpointing(family):
    policy = build(family, gradient_checkpointing=True)
    calls = []
    policy._backbone.body.register_forward_hook(lambda *_: calls.append("body"))
    layer = next(m for m in policy.lm.modules() if type(m).__name__ in ("LlamaMLP", "GPT2MLP"))
    layer.register_forward_hook(lambda *_: calls.append("layer"))
    check_equal(policy, batch_of(BATCHES["turns"]), Sampling(), False, "right")
    assert calls[:3] == ["layer", "body", "layer"]  # the layer once more than the body: in the backward pass
    policy.prefill([[3, 4]], [2])[0].select(torch.tensor([1]))  # and decoding keeps its cache


def test_padded_layout_is_reachable_and_equal():
    policy, batch = build("llama"), batch_of(BATCHES["groups"])
    got, fast_gradient = fast(policy, batch, Sampling(), False)
    policy.lm.set_attn_implementation("sdpa")
    assert not policy._backbone.packs
    want, slow_gradient = fast(policy, batch, Sampling(), False)
    torch.testing.assert_close(got.logprobs, want.logprobs, rtol=1e-5, atol=1e-5)
    for name, g in slow_gradient.items():
        torch.testing.assert_close(fast_gradient[name], g, rtol=1e-4, atol=1e-5)


def test_an_architecture_that_asks_more_of_its_attention_is_padded():
    """A window of 3 tokens: packed attention would look past it, and must not be taken."""
    lm = MistralForCausalLM(MistralConfig(**GATED, sliding_window=3))
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(lora_r=0, dtype="float32"))
    assert not policy._backbone.packs
    assert lm.config._attn_implementation == "sdpa"
    tokens, lengths, mask = batch_of(BATCHES["turns"])
    scored = policy.score(tokens, lengths, mask, Sampling()).logprobs
    for i, n in enumerate(lengths.tolist()):
        alone = lm(tokens[i : i + 1, :n]).logits[0].log_softmax(-1)
        at = mask[i].nonzero().squeeze(1)
        torch.testing.assert_close(scored[i, at], alone[at - 1, tokens[i, at]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "where"), [("llama", attention), ("qwen2", attention), ("qwen3", attention), ("gpt2", packing)]
)
def test_an_attention_that_is_not_ours_is_noticed(family, where, monkeypatch):
    """The check at construction is what stands between a wrong layout and a silent error."""
    right = packing.attended
    monkeypatch.setattr(where, "attended", lambda *a: right(*a) * 1.01)
    assert not build(family)._backbone.packs
    monkeypatch.undo()
    assert build(family)._backbone.packs


@pytest.mark.parametrize("window", [3, 64])
def test_a_window_in_a_known_attention_is_noticed(window):
    """A module of our own must not look past what transformers' would, be it in longer rows than the check reads."""
    shape = {**GATED, "use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    policy = CausalPolicy(Qwen3ForCausalLM(Qwen3Config(**shape)), Ids(), options=PolicyOptions(lora_r=0))
    assert isinstance(policy.lm.model.layers[0].self_attn, attention.PackedAttention)
    assert not policy._backbone.packs


def test_what_is_packed():
    tokens, lengths, _ = batch_of(BATCHES["groups"])
    first = torch.tensor([4, 4, 2, 2])
    packed, slots = pack(tokens, first, lengths)
    assert packed.ids[0].tolist() == [3, 4, 5, 1, 9, 2, 6, 7, 1, 8, 5, 5, 5, 5, 1, 1]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 4, 2, 3, 4, 5, 6, 2]
    for i, n in enumerate(lengths.tolist()):
        assert torch.equal(packed.ids[0, slots[i, :n]], tokens[i, :n])
    assert packed.back.sort().values.unique().numel() == packed.ids.numel()
    alone, _ = pack(tokens[:1], first[:1], lengths[:1])
    assert [b.hidden for b in alone.buckets] == [None]  # nothing shared: one segment, and only the future is hidden


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("wants_entropy", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 8, 0.9)], ids=str)
def test_fused_head_is_log_softmax(frozen, wants_entropy, sampling, monkeypatch):
    monkeypatch.setattr(head, "_ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(s, generator=generator) for s in ((11, 6), (V, 6), (V,)))
    targets = torch.randint(V, (11,), generator=generator)
    g, ge = torch.randn(2, 11, generator=generator)

    def grads(score):
        h, w, b = hidden.clone().requires_grad_(), *(x.clone().requires_grad_(not frozen) for x in (weight, bias))
        logprobs, entropies = score(h, w, b)
        loss = (g * logprobs).sum() + ((ge * entropies).sum() if wants_entropy else 0)
        loss.backward()
        return logprobs, entropies, h.grad, *(() if frozen else (w.grad, b.grad))

    def plainly(h, w, b):
        logprobs, z = token_logprobs(0.5 * (h @ w.t() + b), targets, sampling)
        return logprobs, entropy(z) if wants_entropy else None

    fused = grads(lambda h, w, b: fused_logprobs(h, w, b, targets, 0.5, sampling, wants_entropy))
    for a, b in zip(fused, grads(plainly), strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_head_keeps_probabilities_for_a_backward_pass_only(monkeypatch, gradient):
    """Without gradient all chunks go through one buffer, though the head is a parameter."""
    used, softmax = set(), head._softmax
    monkeypatch.setattr(head, "_softmax", lambda z: used.add(z.data_ptr()) or softmax(z))
    weight = torch.nn.Parameter(torch.randn(50, 8))
    rows = 3 * head._ROWS
    with torch.set_grad_enabled(gradient):
        fused_logprobs(torch.randn(rows, 8), weight, None, torch.zeros(rows, dtype=torch.int64), 1.0, Sampling(), False)
    assert len(used) == (3 if gradient else 1)


def test_a_second_derivative_of_the_head_is_refused():
    weight, hidden = torch.randn(50, 8), torch.randn(4, 8, requires_grad=True)
    found, _ = fused_logprobs(hidden, weight, None, torch.zeros(4, dtype=torch.int64), 1.0, Sampling(), False)
    (first,) = torch.autograd.grad(found.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
