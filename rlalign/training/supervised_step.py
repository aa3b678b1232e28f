"""The supervised update of a training step, on the reference answers of further prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from rlalign.training.experience import Experience
from rlalign.training.learner import DivergedError
from rlalign.training.supervised import build_demonstrations
from rlalign.training.trainer_state import TrainerState


def supervised_step(state: TrainerState, experience: Experience, warn: Callable[[str], None]) -> None:
    """Take a supervised update on the reference answers of the next `rollout.prompts` prompts.

    Args:
        state: of the run, after the updates of the step, which is not counted in `state.step` yet.
        experience: of the step; the metrics of the update are added to it.
        warn: prints a warning.
    """
    config = state.config
    tasks = state.demonstration_tasks.next(config.rollout.prompts, state.step)
    demonstrations = build_demonstrations(state.collector.mdp, tasks)
    try:
        experience.record_update(state.learner.supervised_update(demonstrations, config.supervised.weight))
        state.failures.record_success("supervised")
    except DivergedError as error:
        experience.record_update({"supervised/skipped": 1.0})
        batch = {field.name: getattr(demonstrations, field.name) for field in fields(demonstrations)}
        warn(state.failures.record_skipped_update("supervised", state.step + 1, error, batch))
