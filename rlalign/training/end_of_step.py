"""The end of a step, after its last update: objective state, supervised update, validation, alarms, log.

Each part is done once, also if the run ends in between: the checkpoint then holds the experience of the step and the
part that comes next (`Experience.stage`), and the step counts once its line is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from rlalign.config.serialize import fingerprint
from rlalign.log.custom_metrics import PREFIX
from rlalign.log.equal_rewards import warning_of
from rlalign.training.experience import Experience
from rlalign.training.out_of_memory import during
from rlalign.training.recorded_run import HeldOutData
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised_step import supervised_step
from rlalign.training.trainer_state import TrainerState
from rlalign.training.validation import Validator


def is_due(step: int, every: int) -> bool:
    """Return whether something that happens every `every` steps happens after this step; 0: never."""
    return bool(every) and step % every == 0


class EndOfStep:
    """Ends the steps of a run.

    Args:
        state: of the run.
        validator: evaluates the policy.
        held_out: measures the policy on held-out rows of recorded data; None: the policy samples.
        stop: holds interruptions back where half of the work must not be done.
        warn: prints a warning.
    """

    def __init__(
        self,
        state: TrainerState,
        validator: Validator,
        held_out: HeldOutData | None,
        stop: StopRequest,
        warn: Callable[[str], None],
    ) -> None:
        self.state = state
        self.config = state.config
        self.validator = validator
        self.held_out = held_out
        self.stop = stop
        self.warn = warn

    def finish(self, experience: Experience) -> dict[str, float]:
        """End the step of a finished rollout, from the stage that it has reached, and return the metrics logged."""
        state = self.state
        step = state.step + 1
        if experience.stage == "updates":
            with self.stop.deferred():
                state.learner.end_rollout(experience.buffer)
                state.collector.mdp.reward.end_step(experience.buffer.component_means)
                experience.stage = "supervised"
        if experience.stage == "supervised":
            if is_due(step, self.config.supervised.align_interval):
                with self.stop.deferred(), during("supervised update"), state.undone_on_error():
                    supervised_step(state, experience, self.warn)
                    experience.stage = "log"  # inside: a deferred interruption is raised right after the block
            experience.stage = "log"
        assert state.tracker is not None
        # the interruption is raised after the outer block ends: it must not undo a step that is logged
        with ExitStack() as logged, state.undone_on_error():
            metrics = experience.step_metrics()
            if is_due(step, self.config.evaluation.every):
                metrics |= self._validate(step)
            metrics |= state.kl_budget.record(step, metrics)
            metrics |= state.alarms.update(step, metrics)
            metrics |= state.hooks.after_step(state.view(step), metrics)
            logged.enter_context(self.stop.deferred())
            state.tracker.log(step, metrics, experience.samples)
            state.experience = None
            state.step = step
        self.warn(warning_of(step, state.alarms.rows, state.collector.mdp, self.config.objective.baseline))
        return metrics

    def _validate(self, step: int) -> dict[str, float]:
        state = self.state
        if self.config.evaluation.patience:
            state.check_weights("before a validation")  # its weights may become the best ones
        with during("validation"):
            results = self.validator.evaluate(self.validator.validation_tasks)
            of_data = self.held_out.metrics() if self.held_out is not None else {}
        score = results.mean("reward")
        if self.held_out is not None and of_data and not state.collector.mdp.has_reward:
            score = self.held_out.score(of_data)
        state.early_stopping.record(step, score, state.policy, fingerprint(self.config))
        state.hooks.after_evaluation(step, results, of_data)
        metrics = {f"eval/{name}": results.mean(name) for name in results.metrics}
        metrics |= {f"eval/{name}": value for name, value in results.report.figures.items() if name.startswith(PREFIX)}
        for env in dict.fromkeys(results.envs):
            own = results.of_environment(env)
            metrics |= {f"env/{env}/eval/{name}": own.mean(name) for name in own.metrics}
        return metrics | of_data
