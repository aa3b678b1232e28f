"""Checks of the teacher of a configuration, before any weight is loaded."""

from __future__ import annotations

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.rewards.reward_model.function import is_url
from rlalign.teachers.endpoint import EndpointSpec
from rlalign.teachers.local import check_local_teacher
from rlalign.types import Sampling


def check_teacher(config: TrainConfig) -> None:
    """Check that an algorithm that needs a teacher has one that it can use, and nothing that contradicts it.

    Raises:
        UserError: names the setting, the reason and the fix.
    """
    kind = find_algorithm(config.algorithm).teacher
    if not kind:
        return
    name = config.algorithm
    if not config.teacher:
        raise UserError(
            f"{name} learns from a teacher: expected one, got none; use --teacher FOLDER, a hub id, or the URL of a "
            "server (see docs/concepts/distillation.md)"
        )
    objective, rollout = config.objective, config.rollout
    for refused, what, fix in (
        (config.data, "--data names recorded completions, and distillation samples its own", "leave --data out"),
        (kind == "scores" and objective.kl.where == "none",
         "there is no KL term, through which the teacher acts", "use --objective.kl.where reward and kl.coef 1"),
        (kind == "scores" and objective.kl.where == "loss" and objective.kl.estimator == "k1"
         and objective.kl.importance == "none",
         "estimator k1 in the loss has the expected gradient 0",
         "use --objective.kl.where reward, or --objective.kl.importance sequence"),
        (kind == "samples" and objective.kl.where != "none",
         "the KL is to the teacher, whose samples are imitated already", "use --objective.kl.where none"),
        (rollout.sampling != Sampling(temperature=rollout.temperature),
         "rollout.top_k and rollout.top_p give the policy and the teacher different supports, so that their KL is "
         "infinite", "use top_k 0 and top_p 1"),
        (objective.needs_greedy or objective.filter.dynamic_sampling or rollout.per_component,
         "baseline greedy, filter.dynamic_sampling and rollout.per_component read the environment's reward alone",
         "turn them off"),
        (objective.is_preference, f"loss {objective.loss} learns from recorded preferences", "use loss surrogate"),
        (config.evaluation.stop_kl and not config.evaluation.every,
         "evaluation.stop_kl reads the KL to the initial policy, which validations measure",
         "use --evaluation.every 1"),
        (kind == "samples" and objective.needs_varied_rewards,
         "every sample of a teacher has the reward 1, of which a baseline or a scale leaves no advantage",
         "use --objective.baseline none and --objective.scale none"),
    ):  # fmt: skip
        if refused:
            raise UserError(f"{name}: {what}; {fix}")
    if not is_url(config.teacher):
        check_local_teacher(config.teacher, trust_remote_code=config.model.trust_remote_code)
        return
    EndpointSpec.parse(config.teacher)
    if kind == "samples":
        raise UserError(
            f"{name}: expected a teacher that samples in this process, got the URL '{config.teacher}': a server draws "
            "its own random numbers, so that a resumed run would not be the same; use --teacher FOLDER, or --algorithm "
            "distill, which only reads log-probs"
        )
    if rollout.temperature != 1.0:
        raise UserError(
            f"{name}: a server gives log-probs at temperature 1, got rollout.temperature {rollout.temperature:g}; use "
            "--rollout.temperature 1, or a teacher in a folder"
        )
