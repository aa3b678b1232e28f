"""The source of a run's rollouts: recorded data, the policy's own samples, or those of its teacher."""

from __future__ import annotations

from functools import partial

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.policies.factory import make_sampler
from rlalign.recorded.read import RecordedData
from rlalign.rollout.recorded import RecordedRollouts
from rlalign.rollout.sampled import SampledRollouts
from rlalign.rollout.source import RolloutSource
from rlalign.teachers.local import LocalTeacher
from rlalign.teachers.make import Teacher
from rlalign.training.distillation import imitates
from rlalign.training.learner import Learner
from rlalign.training.rng import RngStreams


def rollout_source(
    config: TrainConfig,
    mdp: TextMDP,
    learner: Learner,
    rng: RngStreams,
    *,
    data: RecordedData | None,
    teacher: Teacher | None,
) -> RolloutSource:
    """Return where the rollouts of a run come from.

    Args:
        config: of the run.
        mdp: the environment, bound to the policy's tokenizer.
        learner: its policy samples, and it computes log-probs while rewards are scored.
        rng: of the run.
        data: recorded data to learn from; None: rollouts are sampled.
        teacher: of distillation; None: there is none.
    """
    if data is not None:
        return RecordedRollouts(
            data.train,
            per_step=config.rollout.prompts,
            seed=rng.task_seed,
            mismatched=config.objective.needs_reference_point,
            positions=learner.policy.max_positions,
        )
    policy, by_teacher = learner.policy, imitates(config)
    if by_teacher:
        assert isinstance(teacher, LocalTeacher)  # `check_teacher` refuses another one
        policy = teacher.policy
    return SampledRollouts(
        config,
        mdp,
        make_sampler(config.rollout.sampler, policy),
        generator=rng.sampler,
        task_seed=rng.task_seed,
        episode_seed=rng.episode_seed,
        # log-probs of the teacher's samples are not those of the policy, as in recorded data
        precompute=partial(learner.preparation.precompute, recorded=by_teacher),
    )
