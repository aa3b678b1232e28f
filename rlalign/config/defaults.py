"""Default configurations by environment, policy and algorithm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from rlalign.algorithms import Algorithm, learns_from_data
from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.policies.factory import policy_path

# Policies without pretraining: small, and with no reference policy worth staying close to.
_SCRATCH = ("gru", "tiny", "tabular")
ENV_OF_DATA = "rlalign.recorded.prompts:RecordedPrompts"
_SAMPLES = TrainConfig().rollout.prompts * TrainConfig().rollout.group_size  # per step of a pretrained policy


def default_config(
    env: str | None = None,
    policy: str = TrainConfig.policy,
    algorithm: str = TrainConfig.algorithm,
    data: str | None = None,
) -> TrainConfig:
    """Return a TrainConfig with the preset's axes and reuse of rollouts, and the policy's learning rate and batch.

    The preset sets `objective`, `rollout.group_size` and the epochs, minibatches and old log-probs of `learner`. A
    policy without pretraining (`gru`, `tiny`, `tabular`) trains for 200 steps of 128 samples with the learning rate
    3e-3, and without KL to its initial policy; a KL to a teacher stays. An algorithm that learns from recorded data
    (`sft`, `dpo`, `trl:dpo`, ...) reads as many completions per step as others sample, keeps its KL coefficient, and
    has a tenth of the learning rate of a pretrained policy: its updates all point the same way. All other settings are
    the defaults of `TrainConfig`.

    Args:
        env: an environment as `TrainConfig.env`; it changes no other setting. None: the prompts of the data if the
            algorithm learns from it, else the default.
        policy: a name of `rlalign list policies`, a model folder, a run folder (its policy), or a hub id.
        algorithm: a preset of `rlalign list algorithms`.
        data: recorded data, as `TrainConfig.data`.

    Raises:
        UnknownNameError: there is no such preset.

    Example:
        >>> config = default_config("rlalign/Reverse-v0", "tiny", "grpo")
        >>> config.steps, config.samples_per_step, config.learner.lr
        (200, 128, 0.003)
    """
    preset = find_algorithm(algorithm)
    policy = policy_path(policy)
    recorded = bool(preset.data)
    if env is None:
        learns = bool(data) and learns_from_data(algorithm)
        env = env_of_data(str(data), TrainConfig().recorded.held_out) if learns else TrainConfig.env
    config = TrainConfig(env=env, policy=policy, algorithm=algorithm, data=data, objective=preset.objective)
    config = replace(
        config,
        rollout=replace(config.rollout, group_size=preset.group_size),
        learner=replace(
            config.learner,
            epochs=preset.epochs,
            minibatches=preset.minibatches,
            old_logprobs=preset.old_logprobs,
        ),
    )
    if from_scratch(policy):
        config = _scratch(config)
    if preset.teacher:  # its KL is to the teacher, not to a random initial policy
        config = replace(config, objective=preset.objective)
    return _of_recorded(config, preset) if recorded else config


def env_of_data(data: str, held_out: float) -> str:
    """Return the environment spec of the prompts of recorded data (see `rlalign.recorded.prompts`).

    Args:
        data: of the run.
        held_out: share of the rows that are held out.
    """
    return f"{ENV_OF_DATA}?data={quote(data, safe='/')}&held_out={held_out:g}"


def from_scratch(policy: str) -> bool:
    """Return whether a policy starts without pretraining."""
    return policy in _SCRATCH and not Path(policy).is_dir()


def _scratch(config: TrainConfig) -> TrainConfig:
    samples = 128  # per step
    group = config.rollout.group_size
    return replace(
        config,
        steps=200,
        objective=replace(config.objective, kl=replace(config.objective.kl, coef=0.0, target=0.0)),
        rollout=replace(config.rollout, prompts=max(1, samples // group)),
        learner=replace(config.learner, lr=3e-3),
    )


def _of_recorded(config: TrainConfig, preset: Algorithm) -> TrainConfig:
    """Return the configuration of an algorithm on recorded data: rows or pairs in place of groups of samples."""
    scratch = from_scratch(config.policy)
    samples = config.samples_per_step if scratch else _SAMPLES
    lr = config.learner.lr if scratch else config.learner.lr / 10
    return replace(
        config,
        objective=preset.objective,
        rollout=replace(config.rollout, prompts=max(1, samples // preset.group_size), group_size=preset.group_size),
        learner=replace(config.learner, lr=lr),
    )
