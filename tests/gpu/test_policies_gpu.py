"""Policies and samplers on CUDA; skipped without a device."""

import pytest
import torch

from rlalign.policies.factory import make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.sampling.decode_loop import DecodeSampler
from rlalign.types import Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CONTEXTS = [[3, 4, 5]] * 8 + [[6, 7]] * 8


class Ids:
    vocab_size = 20
    eos_id = pad_id = 1


def sampled_batch(policy, sampler, sampling, seed=0):
    policy.begin_rollout()
    samples = make_sampler(sampler, policy).sample(
        CONTEXTS,
        max_new=24,
        stop_ids=frozenset({1}),
        sampling=sampling,
        generator=torch.Generator("cuda").manual_seed(seed),
    )
    assert samples.tokens.device.type == "cpu"
    rows = [[*c, *t[:n].tolist()] for c, t, n in zip(CONTEXTS, samples.tokens, samples.lengths.tolist(), strict=True)]
    width = max(map(len, rows))
    tokens, mask = torch.ones(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.bool)
    sampled = torch.zeros(len(rows), width)
    for i, (row, context, n) in enumerate(zip(rows, CONTEXTS, samples.lengths.tolist(), strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, len(context) : len(row)] = True
        sampled[i, len(context) : len(row)] = samples.logprobs[i, :n]
    lengths = torch.tensor([len(r) for r in rows])
    return tokens.cuda(), lengths.cuda(), mask.cuda(), sampled.cuda()


@pytest.mark.parametrize("value", ["head", "model"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 8, 0.9)], ids=str)
@pytest.mark.parametrize(
    ("kind", "lora", "dtype", "tolerance"),
    [
        ("tiny", 0, "float32", 1e-4),
        ("tiny", 4, "float32", 1e-4),
        ("tiny", 0, "bfloat16", 5e-2),
        ("tiny", 4, "bfloat16", 5e-2),
        ("gru", 0, "float32", 1e-4),
    ],
)
def test_scores_equal_sampled_logprobs_and_have_gradients(kind, lora, dtype, tolerance, sampling, value):
    options = PolicyOptions(adapter=AdapterOptions.lora(lora), dtype=dtype, value=value)
    policy = make_policy(kind, tokenizer=Ids(), options=options, device="cuda")
    for sampler in ("decode",) if kind == "gru" else ("decode", "generate"):
        tokens, lengths, mask, sampled = sampled_batch(policy, sampler, sampling)
        scores = policy.score(tokens, lengths, mask, sampling, entropy=True, values=True)
        reference = policy.reference_logprobs(tokens, lengths, mask, sampling)
        for other in (sampled, reference):
            gaps = (scores.logprobs - other)[mask].abs()
            # bfloat16: rounding may move a token over the edge of the nucleus, which changes its row; hence the mean
            assert (gaps.mean() if dtype == "bfloat16" else gaps.max()) < tolerance
    (scores.logprobs.sum() + scores.values.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.trainable().values())
    assert any(p.grad is not None and p.grad.any() for p in policy.trainable().values())


def test_weights_equal_those_on_the_cpu():
    for kind in ("tiny", "gru"):
        on_cuda, on_cpu = (make_policy(kind, tokenizer=Ids(), seed=3, device=d) for d in ("cuda", "cpu"))
        for a, b in zip(on_cuda.parameters(), on_cpu.parameters(), strict=True):
            assert torch.equal(a.cpu(), b)


def test_auto_is_bfloat16_for_a_pretrained_model(tmp_path):
    make_policy("tiny", tokenizer=Ids()).save_pretrained(tmp_path)
    policy = make_policy(str(tmp_path), tokenizer=Ids(), device="cuda")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert policy.compute_dtype == (torch.bfloat16 if native else torch.float32)
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    ("lora", "dtype", "tolerance"), [(0, "float32", 1e-4), (4, "float32", 1e-4), (4, "bfloat16", 5e-2)]
)
def test_captured_graphs_sample_the_same_tokens_as_single_steps(lora, dtype, tolerance, greedy):
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora), dtype=dtype), device="cuda"
    )
    stepwise, captured = (DecodeSampler(policy, fixed=fixed) for fixed in (False, True))
    limits = [1, 2, 3, 40, 40, 5, 5, 5] * 2
    for seed in range(3):
        policy.begin_rollout()
        settings = {"max_new": limits, "stop_ids": frozenset({1}), "sampling": Sampling(0.9, 12), "greedy": greedy}
        a, b = (
            sampler.sample(CONTEXTS, **settings, generator=torch.Generator("cuda").manual_seed(seed))
            for sampler in (stepwise, captured)
        )
        if dtype == "float32":
            assert torch.equal(a.tokens, b.tokens)
            assert (a.logprobs - b.logprobs).abs().max() < tolerance
        with torch.no_grad():  # graphs read the weights at fixed addresses: they must use the changed ones
            for p in policy.trainable().values():
                p.mul_(1.05)
    ((_, loop),) = captured._loops.values()
    assert loop._captures
    assert any(graph is not None for graph in loop._graphs.values())


def test_steps_run_one_by_one_if_capture_fails(monkeypatch):
    policy = make_policy("tiny", tokenizer=Ids(), options=PolicyOptions(dtype="float32"), device="cuda")
    settings = {"max_new": 24, "stop_ids": frozenset({1}), "sampling": Sampling()}

    def sample():
        return DecodeSampler(policy).sample(CONTEXTS, **settings, generator=torch.Generator("cuda").manual_seed(0))

    captured = sample()

    def failing_capture(*_, **__):
        raise RuntimeError("capture fails in this test")

    monkeypatch.setattr(torch.cuda, "graph", failing_capture)
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        stepwise = sample()
    assert torch.equal(captured.tokens, stepwise.tokens)
