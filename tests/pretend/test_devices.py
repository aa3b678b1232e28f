"""Placement of tensors and synchronization with the device, on an emulated CUDA device (see conftest.py)."""

from __future__ import annotations

import pytest
import torch

import rlalign
from rlalign.policies.factory import load, make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.types import Sampling

pytestmark = pytest.mark.filterwarnings(
    "ignore:decoding without CUDA graphs",
    "ignore:PyTorch was compiled without cuDNN",
)
SMALL = {"rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 2, "quiet": True, "device": "cuda"}


class Ids:
    vocab_size = 20
    eos_id = pad_id = 1


# ---- the emulation detects errors ----


@pytest.mark.parametrize(
    "wrong",
    [
        lambda on_cuda, on_host: on_cuda + on_host,
        lambda on_cuda, on_host: torch.where(on_cuda > 0, on_cuda, on_host),
        lambda on_cuda, on_host: on_host[on_cuda.long()],
        lambda on_cuda, on_host: torch.cat([on_cuda, on_host.to("cuda").cpu()]),
        lambda on_cuda, on_host: on_cuda.numpy(),
    ],
)
def test_operations_on_tensors_of_both_devices_raise(cuda, wrong):
    on_cuda = torch.zeros(3, device="cuda")
    on_host = torch.ones(3)
    assert (on_cuda.device.type, (on_cuda + 1).device.type, on_host.device.type) == ("cuda", "cuda", "cpu")
    assert (on_cuda + on_host.to(on_cuda.device)).is_cuda
    with pytest.raises(AssertionError, match="on the device"):
        wrong(on_cuda, on_host)


@pytest.mark.parametrize(
    "waits",
    [float, torch.Tensor.cpu, torch.Tensor.tolist, lambda x: bool((x > 0).any()), lambda x: x[x > 0], torch.nonzero],
)
def test_waits_of_the_host_are_counted(cuda, waits):
    x = torch.ones(1, device="cuda")
    assert not cuda.waits
    waits(x)
    assert cuda.waits


@pytest.mark.parametrize(
    "wrong", [float, lambda x: x + torch.tensor([1.0], device="cuda"), lambda x: torch.ones(1).to(x)]
)
def test_operations_that_cannot_be_captured_raise(cuda, wrong):
    x = torch.ones(1, device="cuda")
    with cuda.capture(), pytest.raises(AssertionError, match="while it captures"):
        wrong(x)


# ---- the library ----


def waits_of(cuda, policy, width, limits=None):
    """Return the waits of the second of two equal calls of the sampler; the first one prepares its buffers."""
    contexts = [[3, 4, 5]] * 4 + [[6, 7]] * 4
    policy.begin_rollout()
    sampler, settings = make_sampler("decode", policy), {"stop_ids": frozenset(), "sampling": Sampling(0.7, 8, 0.9)}
    generator = torch.Generator("cuda").manual_seed(0)
    sampler.sample(contexts, max_new=limits or width, generator=generator, **settings)
    before = len(cuda.waits)
    samples = sampler.sample(contexts, max_new=limits or width, generator=generator, **settings)
    assert samples.tokens.device.type == samples.logprobs.device.type == "cpu"
    assert samples.tokens.shape[1] == width
    return cuda.waits[before:]


@pytest.mark.parametrize("lora", [0, 4])
def test_waits_of_decoding_do_not_grow_with_the_tokens(cuda, lora):
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora)), device="cuda"
    )
    assert len(waits_of(cuda, policy, 8)) == len(waits_of(cuda, policy, 40)) <= 3  # 40 tokens are five checks
    uneven = [5, 40, 17, 33] * 2  # rows finish at different steps
    assert len(waits_of(cuda, policy, 40, uneven)) <= 3


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("lora", [0, 4])
def test_a_decoding_step_can_be_captured(cuda, lora, greedy):
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora)), device="cuda"
    )
    policy.begin_rollout()
    sampler = make_sampler("decode", policy)
    settings = {"stop_ids": frozenset({1}), "sampling": Sampling(0.7, 8, 0.9), "greedy": greedy}
    sampler.sample([[3, 4, 5]] * 4, max_new=8, generator=torch.Generator("cuda"), **settings)
    ((batch, loop),) = sampler._loops.values()
    batch.begin([64] * 4, torch.zeros(64, 4, dtype=torch.float64, device="cuda"))
    with torch.no_grad(), cuda.capture():
        loop._step(4)


def test_a_device_without_graphs_is_reported_once(cuda):
    sampler = make_sampler("decode", make_policy("tiny", tokenizer=Ids(), device="cuda"))
    settings = {"max_new": 12, "stop_ids": frozenset(), "sampling": Sampling(), "generator": torch.Generator("cuda")}
    with pytest.warns(UserWarning, match="without CUDA graphs, which is slower: this device is emulated") as warned:
        sampler.sample([[3, 4, 5]] * 2, **settings)
    assert len(warned) == 1


def test_a_recurrent_policy_waits_once_per_eight_tokens(cuda):
    policy = make_policy("gru", tokenizer=Ids(), device="cuda")
    assert len(waits_of(cuda, policy, 40)) - len(waits_of(cuda, policy, 8)) <= 40 / 8


@pytest.mark.parametrize(
    ("policy", "algorithm", "settings"),
    [
        pytest.param("gru", "reinforce", {}, marks=pytest.mark.slow),
        ("gru", "vapo", {"supervised__align_interval": 1}),
        ("tiny", "ppo", {"objective__value__kind": "model", "evaluation__every": 1}),
        ("tiny", "grpo", {"model__lora_r": 4, "learner__micro_batch": 2, "learner__minibatches": 2}),
        ("tiny", "remax", {"rollout__sampler": "generate"}),
        pytest.param("tiny", "dapo", {}, marks=pytest.mark.slow),
        ("tiny", "rloo", {"env": "guess_number", "objective__kl__coef": 0.1, "objective__kl__where": "reward"}),
    ],
)
def test_a_run_trains_stops_and_resumes_on_the_device_that_it_names(cuda, tmp_path, policy, algorithm, settings):
    arguments = {"env": "reverse", **SMALL, "device": "cuda:1", **settings, "output": tmp_path / "run"}
    rlalign.train(policy=policy, algorithm=algorithm, steps=1, **arguments)
    run = rlalign.train(policy=policy, algorithm=algorithm, steps=2, resume=True, **arguments)
    assert run.metrics["step"] == [1, 2]
    assert run.policy.device == torch.device("cuda:1")
    assert load(run.folder / "policy").device.type == "cpu"  # a saved policy loads anywhere
    waits = [wait for wait in cuda.waits if wait.startswith(("learner.py", "micro_batches.py", "metric_sums.py"))]
    learner = run.config.learner
    updates = 2 * learner.epochs * learner.minibatches
    updates += 2 // run.config.supervised.align_interval if run.config.supervised.align_interval else 0
    assert len(waits) == updates, waits  # one wait per update, for its metrics
    # a moved or read tensor needs no guard; everything that computes does
    assert not cuda.unguarded, sorted(set(cuda.unguarded))
    for under in (cuda.pinned_under, cuda.recorded_under, cuda.captured_under):
        assert under <= {1}


def test_an_update_waits_once(cuda, tmp_path):
    """The flow of tests/gpu/test_update_gpu.py: an update of a rollout of the current weights waits for its metrics."""
    run = rlalign.train("reverse", "tiny", "rloo", steps=2, output=tmp_path / "run", **SMALL)
    waits = [wait for wait in cuda.waits if wait.startswith(("learner.py", "micro_batches.py", "metric_sums.py"))]
    assert len(waits) == len(run.metrics["step"]), waits


def test_the_number_of_waits_per_step_does_not_depend_on_the_turn_length(cuda, tmp_path):
    def waits(max_new):
        before = len(cuda.waits)
        rlalign.train(f"sort?max_new={max_new}", "tiny", "rloo", steps=1, output=tmp_path / str(max_new), **SMALL)
        return len(cuda.waits) - before

    assert waits(8) == waits(24)


def test_a_loaded_model_has_its_rotary_frequencies(cuda, tmp_path):
    """The emulation must not replace transformers' meta tensors: they would stay without content."""
    run = rlalign.train("reverse", "tiny", output=tmp_path / "run", steps=1, quiet=True, evaluation__prompts=2)
    frequencies = dict(run.policy.lm.named_buffers())["model.rotary_emb.inv_freq"]
    width = 2 * len(frequencies)
    theta = run.policy.lm.config.rope_parameters["rope_theta"]
    assert frequencies.cpu().tolist() == pytest.approx([theta ** (-2 * i / width) for i in range(width // 2)])
