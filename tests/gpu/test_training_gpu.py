"""Training runs on CUDA: learning, the gradient of the CPU, stop and resume."""

import pytest
import torch

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.config.validate import resolve
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.policies.factory import load, make_sampler
from rlalign.rollout.collect import collect
from rlalign.storage import checkpoint
from rlalign.training.learner import Learner

pytestmark = pytest.mark.gpu
SMALL = {"rollout__prompts": 4, "rollout__group_size": 4, "evaluation__prompts": 4, "quiet": True, "device": "cuda"}


@pytest.mark.parametrize("policy", ["gru", "tiny"])
@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo", "remax", "dapo"])
def test_runs_on_cuda(tmp_path, policy, algorithm):
    run = rlalign.train("reverse", policy, algorithm, steps=3, output=tmp_path / "run", **SMALL)
    assert len(run.metrics["reward/mean"]) == 3
    assert run.policy.device.type == "cuda"
    assert load(run.folder / "policy").device.type == "cpu"  # a saved policy loads anywhere


def test_learns_on_cuda(tmp_path):
    run = rlalign.train(
        "reverse?max_length=3", "gru", "rloo", steps=80, output=tmp_path / "run", quiet=True, device="cuda"
    )
    assert sum(run.metrics["reward/mean"][-10:]) / 10 > 0.45


def test_stop_and_resume_on_cuda(tmp_path):
    rlalign.train("reverse", "gru", steps=2, output=tmp_path / "run", **SMALL)
    run = rlalign.train("reverse", "gru", steps=4, output=tmp_path / "run", resume=True, **SMALL)
    assert run.metrics["step"] == [1, 2, 3, 4]
    state, _ = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert all(t.device.type == "cpu" for t in state["policy"].values())


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_gradient_on_cuda_equals_that_of_the_cpu(algorithm):
    """Both devices compute the gradient of one CPU rollout, in float32."""
    config = update(
        default_config("rlalign/Reverse-v0", "tiny", algorithm), {"device": "cpu", "model.dtype": "float32"}
    )
    config = resolve(config)

    def gradient(device, rollout=None):
        device_config = update(config, {"device": device})
        policy, mdp = build_policy(device_config, build_mdp(device_config))
        if rollout is None:
            env = TokenVectorEnv(mdp, 16)
            generator = torch.Generator().manual_seed(0)
            policy.begin_rollout()
            tasks = [mdp.source.get("train", i) for i in range(4)]
            rollout = collect(
                env, make_sampler("decode", policy), tasks,
                group_size=4, sampling=device_config.rollout.sampling, generator=generator, seed=0,
            )  # fmt: skip
        learner = Learner(
            policy, device_config.objective, device_config.learner, sampling=device_config.rollout.sampling,
            total_updates=1, generator=torch.Generator().manual_seed(0), max_length=mdp.max_new,
        )  # fmt: skip
        buffer = learner.prepare(rollout)
        learner.accumulate_gradient(buffer, buffer.plan[0])
        return rollout, {n: p.grad.float().cpu() for n, p in policy.trainable().items() if p.grad is not None}

    rollout, on_cpu = gradient("cpu")
    _, on_cuda = gradient("cuda", rollout)
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_cuda[name], value, rtol=1e-3, atol=1e-5)
