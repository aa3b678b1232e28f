"""Distillation in a run: the rewards that its rollouts get, its metrics, and the line about its result."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.evaluation.before_after import Comparison
from rlalign.objective.last_action import on_last_action
from rlalign.rollout.collect import Rollout

TEACHER_KL = "teacher_kl"
"""Metric of an evaluation: reverse KL to the teacher, nats per completion."""


def distills(config: TrainConfig) -> bool:
    """Return whether a run learns from a teacher."""
    return bool(find_algorithm(config.algorithm).teacher)


def imitates(config: TrainConfig) -> bool:
    """Return whether a run learns from completions that its teacher samples."""
    return find_algorithm(config.algorithm).teacher == "samples"


def reads_reward(config: TrainConfig) -> bool:
    """Return whether a run learns from the environment's reward."""
    return not distills(config) or (not imitates(config) and config.distill.reward_coef > 0)


def distilled(config: TrainConfig, rollout: Rollout) -> Rollout:
    """Return a rollout with the rewards that a run learns from.

    ::

        scores     reward_coef · reward of the environment, to which the objective adds -kl.coef · log pi/teacher
        samples    1 for each completion, so that the policy gradient is that of log pi

    A row whose reward failed is learned from if the reward is not. The log-probs of a teacher's samples are left out:
    they are not those of the policy.

    Args:
        config: of the run.
        rollout: sampled by the policy, or by the teacher.
    """
    if not distills(config):
        return rollout
    everyone = torch.ones_like(rollout.valid)
    if imitates(config):
        ones = on_last_action(torch.ones(len(rollout)), rollout.action_mask)
        return replace(rollout, rewards=ones, valid=everyone, sampler_logprobs=None)
    coef = config.distill.reward_coef
    return replace(rollout, rewards=coef * rollout.rewards, valid=rollout.valid if coef else everyone)


def teacher_metrics(config: TrainConfig, rollout: Rollout, teacher: Tensor | None) -> dict[str, float]:
    """Return the metrics of a rollout with respect to the teacher.

    They are rollout/teacher_kl and rollout/teacher_kl_token, estimates of the reverse KL(pi‖teacher) in nats per
    completion and per token, or for samples of the teacher rollout/teacher_entropy, its entropy in nats per token.

    Args:
        config: of the run.
        rollout: N trajectories, as they were sampled.
        teacher: log-probs of their tokens under the teacher, [N, L]; None for samples of the teacher.
    """
    assert rollout.sampler_logprobs is not None  # it was sampled
    tokens = rollout.num_actions.sum().clamp(min=1)
    if imitates(config):
        return {"rollout/teacher_entropy": float(-rollout.sampler_logprobs.double().sum() / tokens)}
    assert teacher is not None
    total = (rollout.sampler_logprobs - teacher.cpu()).double().sum()
    return {
        "rollout/teacher_kl": float(total / len(rollout)),
        "rollout/teacher_kl_token": float(total / tokens),
    }


def verdict(comparison: Comparison) -> str:
    """Return the change of the KL to the teacher on held-out prompts, with its paired interval; empty if unmeasured."""
    if TEACHER_KL not in comparison.differences:
        return ""
    d = comparison.differences[TEACHER_KL]
    change = d.change(*comparison.means(TEACHER_KL))
    return f"KL to the teacher: {change} nats per completion ({d.evidence}, {d.n} held-out prompts)"
