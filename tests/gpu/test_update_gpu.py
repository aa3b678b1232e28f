"""The optimized update on CUDA: gradient of the padded layout on a CPU, memory, one synchronization with the device."""

import warnings

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rlalign.config.schema import LearnerConfig
from rlalign.objective import Objective
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.scoring.fused_logprobs import fused_logprobs
from rlalign.rollout.collect import Rollout
from rlalign.training.learner import Learner
from rlalign.types import Sampling, Task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

V = 64


class Ids:
    vocab_size = V
    eos_id = pad_id = 1


def policy_of(family, device, dtype="float32", lora=0, **options):
    shape = {
        "vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
        "intermediate_size": 96, "num_key_value_heads": 2, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(7)
    lm = LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
    settings = PolicyOptions(adapter=AdapterOptions.lora(lora), dtype=dtype, **options)
    policy = CausalPolicy(lm, Ids(), options=settings, seed=1, device=device, keep_reference=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += (0.05 * torch.randn(parameter.shape, generator=generator)).to(device)
    return policy


def rollout_of(policy):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, V, (n,), generator=generator).tolist() for n in (3, 9, 5) for _ in range(4)]
    prompts = [prompts[i - i % 4] for i in range(12)]
    completions = [torch.randint(2, V, (1 + i,), generator=generator).tolist() for i in range(12)]
    rows = [p + s for p, s in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    tokens, mask = torch.ones(12, width, dtype=torch.int64), torch.zeros(12, width, dtype=torch.bool)
    rewards = torch.zeros(12, width)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, len(prompt) : len(row)] = True
        rewards[i, len(row) - 1] = float(i % 3)
    lengths = torch.tensor([len(r) for r in rows])
    all_rows = torch.ones(12, dtype=torch.bool)
    with torch.no_grad():
        logprobs = policy.score(tokens, lengths, mask, Sampling()).logprobs.cpu()
    return Rollout(
        tokens=tokens, lengths=lengths, action_mask=mask, sampler_logprobs=logprobs, rewards=rewards, valid=all_rows,
        components={}, group_ids=torch.arange(12) // 4, terminated=all_rows, truncated=~all_rows,
        tasks=[Task("")] * 12, prompts=[""] * 12, completions=[""] * 12, messages=[[]] * 12, extra=[{}] * 12,
    )  # fmt: skip


def learner_of(policy, **settings):
    return Learner(
        policy, Objective(baseline="group_mean", ratio="token"), LearnerConfig(lr=1e-4, **settings),
        sampling=Sampling(), total_updates=9, generator=torch.Generator().manual_seed(0), max_length=16,
    )  # fmt: skip


def gradient(policy, *, packed, rollout=None, **settings):
    if not packed:
        policy.lm.set_attn_implementation("sdpa")
    assert policy.packs == packed
    learner = learner_of(policy, **settings)
    buffer = learner.prepare(rollout or rollout_of(policy))
    learner.accumulate_gradient(buffer, buffer.plan[0])
    return {n: p.grad.float().cpu() for n, p in policy.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [0, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gradient_equals_that_of_padded_rows_on_the_cpu(family, lora, checkpointing, micro_batch):
    expected = gradient(policy_of(family, "cpu", lora=lora), packed=False)
    on_cuda = policy_of(family, "cuda", lora=lora, gradient_checkpointing=checkpointing)
    actual = gradient(on_cuda, packed=True, micro_batch=micro_batch)
    assert expected.keys() == actual.keys()
    for name, g in expected.items():
        assert (actual[name] - g).norm() <= 1e-3 * g.norm() + 1e-6, name


@pytest.mark.parametrize("lora", [0, 4])
def test_bfloat16_gradient_has_the_same_direction(lora):
    expected = gradient(policy_of("qwen3", "cpu", lora=lora), packed=False)
    actual = gradient(policy_of("qwen3", "cuda", dtype="bfloat16", lora=lora), packed=True)
    a, b = (torch.cat([g[n].flatten() for n in sorted(expected)]) for g in (expected, actual))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99


def test_an_update_synchronizes_with_the_device_once():
    policy = policy_of("qwen3", "cuda")
    learner = learner_of(policy, micro_batch=4)
    learner.update(learner.prepare(rollout_of(policy)))  # allocates the moments
    buffer = learner.prepare(rollout_of(policy))  # of the new weights: the learner refuses a rollout of the old ones
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner.update(buffer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing" in str(w.message) for w in caught) == 1


def test_the_fused_head_uses_at_most_half_the_memory_of_log_softmax():
    hidden = torch.randn(1024, 128, device="cuda", requires_grad=True)
    weight = torch.randn(151936, 128, device="cuda", requires_grad=True)
    targets = torch.randint(151936, (1024,), device="cuda")

    def peak(score):
        hidden.grad = weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        score().sum().backward()
        return torch.cuda.max_memory_allocated() - before

    fused = peak(lambda: fused_logprobs(hidden, weight, None, targets, 1.0, Sampling(), False)[0])
    plain = peak(lambda: (hidden @ weight.t()).log_softmax(-1).gather(-1, targets[:, None]))
    assert fused <= plain / 2
