"""Both samplers: limits, stop ids, groups, repeatability."""

import pytest
import torch

from rlalign.errors import UserError
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.policies.options import PolicyOptions
from rlalign.policies.sampling.decode_loop import DecodeSampler
from rlalign.types import Sampling
from tests.policies.test_causal import build

V = 12


class Ids:
    vocab_size = V
    eos_id = 1
    pad_id = 0

    def encode(self, text):
        return [int(t) for t in text.split()]

    encode_prompt = encode

    def decode(self, ids):
        return " ".join(map(str, ids))


def policy_of(name: str = "tiny"):
    policy = make_policy(name, tokenizer=Ids(), options=PolicyOptions(hidden_size=32), seed=1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim == 2:
                parameter *= 8
    return policy


def draw(name: str, policy, contexts, seed: int = 0, **more):
    settings = {
        "max_new": 5,
        "stop_ids": frozenset({1}),
        "sampling": Sampling(),
        "generator": torch.Generator().manual_seed(seed),
    }
    return make_sampler(name, policy).sample(contexts, **{**settings, **more})


CASES = [("decode", "tiny"), ("generate", "tiny"), ("decode", "gru")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equal_generators_give_bitwise_equal_samples(name, kind):
    policy = policy_of(kind)
    contexts = [[3, 4]] * 6 + [[5]] * 2
    a, b, c = (draw(name, policy, contexts, seed) for seed in (0, 0, 1))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.logprobs, b.logprobs)
    assert a.tokens.shape != c.tokens.shape or not torch.equal(a.tokens, c.tokens)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_rows_end_at_their_own_limit_or_at_a_stop_id(name, kind):
    policy = policy_of(kind)
    limits = [0, 1, 2, 3, 9, 9, 9, 9]
    stops = frozenset({1, 7})
    for seed in range(5):
        samples = draw(name, policy, [[3, 4]] * 4 + [[5]] * 4, seed, max_new=limits, stop_ids=stops)
        assert samples.tokens.dtype == samples.lengths.dtype == torch.int64
        assert samples.logprobs.dtype == torch.float32
        for row, logp, n, limit in zip(samples.tokens, samples.logprobs, samples.lengths.tolist(), limits, strict=True):
            completion = row[:n].tolist()
            assert n <= limit
            assert not stops & set(completion[:-1])
            assert n == limit or completion[-1] in stops
            assert (row[n:] == Ids.pad_id).all()
            assert (logp[n:] == 0).all()
            assert (logp[:n] <= 1e-6).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_sampling_leaves_no_inference_tensors(name, kind):
    """A sampler may work in inference mode; the tensors that an update uses must not be from it."""
    policy = policy_of(kind)
    samples = draw(name, policy, [[3, 4], [3, 4], [5]], max_new=[1, 4, 9], stop_ids=frozenset())
    tensors = [samples.tokens, samples.lengths, samples.logprobs, *policy.parameters(), *policy.buffers()]
    assert not any(t.is_inference() for t in tensors)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("kind", "expected"), [("tiny", True), ("gru", False)])
def test_the_optimized_decoder_alone_runs_in_inference_mode(kind, expected, monkeypatch):
    """What another model keeps of its steps, such as tables of rotations, is used in updates too."""
    policy = policy_of(kind)
    real, modes = policy.decode, []
    monkeypatch.setattr(policy, "decode", lambda *a: modes.append(torch.is_inference_mode_enabled()) or real(*a))
    draw("decode", policy, [[3, 4]], stop_ids=frozenset())
    assert set(modes) == {expected}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_without_stop_ids_every_row_reaches_its_limit(name, kind):
    samples = draw(name, policy_of(kind), [[3, 4]] * 8, stop_ids=frozenset(), max_new=12)
    assert samples.lengths.tolist() == [12] * 8


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_greedy_takes_the_most_probable_token_in_a_batch_and_alone(name, kind):
    policy = policy_of(kind)
    contexts = [[3, 4], [3, 4], [5], [6, 7, 8]]
    together = draw(name, policy, contexts, greedy=True)
    for i, context in enumerate(contexts):
        alone = draw(name, policy, [context], greedy=True)
        n = int(alone.lengths[0])
        assert together.lengths[i] == n
        assert torch.equal(together.tokens[i, :n], alone.tokens[0])
        assert (together.logprobs[i, :n] - alone.logprobs[0]).abs().max() < 1e-5
    _, logits = policy.prefill([contexts[0]], [1])
    assert together.tokens[0, 0] == logits.argmax()


def test_a_group_is_read_once(monkeypatch):
    policy = policy_of()
    calls = []
    prefill = policy.prefill
    monkeypatch.setattr(policy, "prefill", lambda c, r: calls.append((c, r)) or prefill(c, r))
    draw("decode", policy, [[3, 4]] * 3 + [[5]] + [[3, 4]] * 2)
    assert calls == [([[3, 4], [5], [3, 4]], [3, 1, 2])]


def test_finished_rows_are_removed_from_the_batch(monkeypatch):
    policy = policy_of()
    sizes = []
    decode = policy.decode
    monkeypatch.setattr(policy, "decode", lambda s, t: sizes.append(len(t)) or decode(s, t))
    limits = [1] * 6 + [4, 8]
    samples = draw("decode", policy, [[3, 4]] * 8, max_new=limits, stop_ids=frozenset())
    assert samples.lengths.tolist() == limits
    assert sizes == [2, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["decode", "generate"])
def test_invalid_contexts_and_limits_raise_an_error(name):
    policy = policy_of()
    with pytest.raises(UserError, match="BOS"):
        draw(name, policy, [[3], []])
    with pytest.raises(UserError, match="limit"):
        draw(name, policy, [[3], [4]], max_new=[1])
    with pytest.raises(UserError, match="limit"):
        draw(name, policy, [])


def test_unknown_samplers_and_unsupported_policies_raise_an_error():
    with pytest.raises(UserError, match="Did you mean 'decode'"):
        make_sampler("decod", policy_of())
    with pytest.raises(UserError, match="sampler decode"):
        make_sampler("generate", policy_of("gru"))


def test_generate_restores_the_models_settings_and_the_global_generator():
    policy = policy_of()
    policy.lm.generation_config.repetition_penalty = 5.0
    settings = policy.lm.generation_config
    state = torch.get_rng_state()
    draw("generate", policy, [[3, 4]])
    assert policy.lm.generation_config is settings
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("limits", [[12] * 7, [0, 1, 2, 3, 30, 30, 30]], ids=["equal", "uneven"])
def test_fixed_buffers_give_the_same_samples(limits, greedy):
    """The steps that CUDA captures, run one by one: places without a row, slots of earlier rollouts, compaction."""
    policy = policy_of()
    contexts = [[3, 4, 5, 6]] * 3 + [[5]] * 4
    growing = DecodeSampler(policy, fixed=False)
    fixed = DecodeSampler(policy, fixed=True)
    for seed in range(4):
        settings = {"max_new": limits, "stop_ids": frozenset({1, 7}), "sampling": Sampling(0.9), "greedy": greedy}
        a, b = (s.sample(contexts, **settings, generator=torch.Generator().manual_seed(seed)) for s in (growing, fixed))
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.lengths, b.lengths)
        assert (a.logprobs - b.logprobs).abs().max() < 1e-5
    assert len(fixed._loops) == 1
    sizes = next(iter(fixed._loops.values()))[1]._graphs
    assert set(sizes) <= {8, 4, 2, 1}
    assert len(sizes) > 1 or limits[0] == 12


@pytest.mark.parametrize("fixed", [False, True])
def test_a_turn_fills_the_positions_of_the_model(fixed):
    """The last token of a turn is drawn and not read, so it needs no position."""
    policy = build("gpt2")  # of 64 positions
    sampler = DecodeSampler(policy, fixed=fixed)
    settings = {"stop_ids": frozenset(), "sampling": Sampling(), "generator": torch.Generator().manual_seed(0)}
    assert sampler.sample([[3] * 60], max_new=5, **settings).lengths.tolist() == [5]
    with pytest.raises(UserError, match="64 positions"):
        sampler.sample([[3] * 60], max_new=6, **settings)


def test_a_turn_can_use_the_cache_of_fixed_buffers():
    policy = policy_of()
    results = []
    for fixed in (False, True):
        sampler = DecodeSampler(policy, fixed=fixed)
        contexts = [[3, 4, 5]] * 3 + [[6, 7]] * 2
        cached = [None] * 5
        for turn in range(3):
            samples = sampler.sample(
                contexts, max_new=[3, 20, 2, 20, 9], stop_ids=frozenset({1}), sampling=Sampling(),
                generator=torch.Generator().manual_seed(turn), cached=cached,
            )  # fmt: skip
            results.append((samples.tokens, samples.logprobs))
            turns = zip(contexts, samples.tokens.tolist(), samples.lengths.tolist(), strict=True)
            contexts = [[*c, *t[:n], 8, 9] for c, t, n in turns]
            cached = samples.cached
            assert all(list(p.tokens) == c[: len(p.tokens)] for p, c in zip(cached, contexts, strict=True))
            assert all(len(p.tokens) >= len(c) - 3 for p, c in zip(cached, contexts, strict=True))
    for a, b in zip(results[:3], results[3:], strict=True):
        assert torch.equal(a[0], b[0])
        assert (a[1] - b[1]).abs().max() < 1e-5
