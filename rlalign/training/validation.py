"""Held-out measurement during a run: the tasks of each validation, and those before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.evaluation.custom_metrics import with_custom_metrics
from rlalign.evaluation.evaluate import Evaluation, evaluate, held_out
from rlalign.log.custom_metrics import CustomMetrics
from rlalign.policies.base import Policy, ReferenceScorer
from rlalign.types import Task


class Validator:
    """Evaluates the policy of a run in progress on held-out tasks.

    Args:
        config: split, number of tasks and samples, sampling distribution, seed.
        policy: the policy in training.
        mdp: the environment, bound to the policy's tokenizer.
        teacher: the KL to it is measured; None: there is none.
        metrics: of the user's own; None: there are none.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        mdp: TextMDP,
        teacher: ReferenceScorer | None = None,
        metrics: CustomMetrics | None = None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.mdp = mdp
        self.teacher = teacher
        self.metrics = metrics or CustomMetrics()

    @cached_property
    def validation_tasks(self) -> list[Task]:
        """The tasks of each validation. Cached: searching a small procedural family for distinct prompts takes long."""
        return held_out(self.mdp, self.config.evaluation.split, self.config.evaluation.prompts)

    @cached_property
    def final_tasks(self) -> list[Task]:
        """The tasks before and after training: of the test split where the validations select the weights."""
        evaluation = self.config.evaluation
        return held_out(self.mdp, "test", evaluation.prompts) if evaluation.patience else self.validation_tasks

    def evaluate(self, tasks: Sequence[Task]) -> Evaluation:
        """Return the policy's results on tasks. Draws from a generator of its own, so training does not change."""
        results = evaluate(
            self.policy,
            self.mdp,
            tasks,
            samples=self.config.evaluation.samples,
            sampling=self.config.rollout.sampling,
            seed=self.config.seed,
            sampler=self.config.rollout.sampler,
            teacher=self.teacher,
        )
        self.mdp.reward.pop_failures()  # failures on held-out tasks do not count for the next step
        return with_custom_metrics(results, self.metrics)
