"""Default configurations by environment, policy and algorithm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlalign.algorithms import OFFLINE
from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.policies.factory import policy_path

# Policies without pretraining: small, and with no reference policy worth staying close to.
_SCRATCH = ("gru", "tiny", "tabular")
_SAMPLES = TrainConfig().rollout.prompts * TrainConfig().rollout.group_size  # per step of a pretrained policy


def default_config(
    env: str = TrainConfig.env, policy: str = TrainConfig.policy, algorithm: str = TrainConfig.algorithm
) -> TrainConfig:
    """Return a TrainConfig with the preset's axes and reuse of rollouts, and the policy's learning rate and batch.

    The preset sets `objective`, `rollout.group_size` and the epochs, minibatches and old log-probs of `learner`. A
    policy without pretraining (`gru`, `tiny`, `tabular`) trains for 200 steps of 128 samples with the learning rate
    3e-3, and without KL. A trainer on preference data (`trl:dpo`) reads as many completions per step as others sample,
    keeps its KL coefficient, and has a tenth of the learning rate of a pretrained policy: its updates all point the
    same way. All other settings are the defaults of `TrainConfig`.

    Args:
        env: an environment as `TrainConfig.env`. It changes no other setting.
        policy: a name of `rlalign list policies`, a model folder, a run folder (its policy), or a hub id.
        algorithm: a preset of `rlalign list algorithms`.

    Raises:
        UnknownNameError: there is no such preset.

    Example:
        >>> config = default_config("rlalign/Reverse-v0", "tiny", "grpo")
        >>> config.steps, config.samples_per_step, config.learner.lr
        (200, 128, 0.003)
    """
    preset = find_algorithm(algorithm)
    policy = policy_path(policy)
    config = TrainConfig(env=env, policy=policy, algorithm=algorithm, objective=preset.objective)
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
    return _offline(config) if algorithm in OFFLINE else config


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


def _offline(config: TrainConfig) -> TrainConfig:
    """Return the configuration of a trainer on preference data: pairs in place of groups of samples."""
    scratch = from_scratch(config.policy)
    samples = config.samples_per_step if scratch else _SAMPLES
    lr = config.learner.lr if scratch else config.learner.lr / 10
    return replace(
        config,
        objective=OFFLINE[config.algorithm].objective,
        rollout=replace(config.rollout, prompts=samples // 2, group_size=2),
        learner=replace(config.learner, lr=lr),
    )
