"""Default configurations by environment, policy and algorithm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig

# Policies without pretraining: small, and with no reference policy worth staying close to.
_SCRATCH = ("gru", "tiny", "tabular")


def default_config(
    env: str = TrainConfig.env, policy: str = TrainConfig.policy, algorithm: str = TrainConfig.algorithm
) -> TrainConfig:
    """Return a TrainConfig with the preset's axes and reuse of rollouts, and the policy's learning rate and batch."""
    preset = find_algorithm(algorithm)
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
    return _scratch(config) if from_scratch(policy) else config


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
