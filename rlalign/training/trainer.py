"""The training loop: collect experience, update the policy, log, validate, save."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import TaskStream
from rlalign.errors import RewardError
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.policies.base import Policy
from rlalign.training.early_stopping import EarlyStopping
from rlalign.training.experience import Experience, ExperienceCollector
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.learner import DivergedError, Learner
from rlalign.training.rng import RngStreams
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised import build_demonstrations
from rlalign.training.trainer_state import TrainerState
from rlalign.training.validation import Validator


class Trainer:
    """Runs the training loop of one run. `reference_loop.py` is the minimal version of it.

    Args:
        config: a validated configuration.
        folder: the run folder.
        policy: the initial policy.
        mdp: the environment, bound to the policy's tokenizer.
        stop: set from outside to stop between two updates.
        quiet: print nothing.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        policy: Policy,
        mdp: TextMDP,
        *,
        stop: StopRequest | None = None,
        quiet: bool = False,
    ) -> None:
        self.config = config
        self.mdp = mdp
        self.quiet = quiet
        self.stop = StopRequest() if stop is None else stop  # a request is false at first: `or` would replace it
        self.console = Console(quiet=quiet, highlight=False)
        self.validator = Validator(config, policy, mdp)
        updates_per_step = config.learner.epochs * config.learner.minibatches
        rng = RngStreams(config.seed, policy.device)
        self.learner = Learner(
            policy,
            config.objective,
            config.learner,
            sampling=config.rollout.sampling,
            total_updates=config.steps * updates_per_step,
            generator=rng.shuffle,
            max_length=mdp.max_new * mdp.max_turns,
        )
        self.failures = FailureLimits(folder, config.learner.max_bad_updates, fingerprint(config))
        self.state = TrainerState(
            config=config,
            folder=folder,
            policy=policy,
            learner=self.learner,
            rng=rng,
            collector=ExperienceCollector(config, policy, mdp, self.learner, rng, self.failures, self._warn),
            demonstration_tasks=TaskStream(mdp.source, "train", seed=rng.demonstration_seed),
            failures=self.failures,
            early_stopping=EarlyStopping(folder, config.evaluation.patience),
            alarms=AlarmMonitor(folder, self.console),
        )

    def run(self) -> int:
        """Train to the last step, or until a stop is requested.

        Returns:
            The exit status: 0, or 143 or 130 after a signal.

        Raises:
            RewardError: a reward failed. The run is saved first, so that it can be resumed once the reward is repaired.
            FaultError: the weights, or too many updates in a row, are not finite.
        """
        state = self.state
        state.tracker = state.tracker or Tracker(state.folder, self.config)
        with ProgressLine(self.config.steps, state.step, quiet=self.quiet) as line:
            try:
                self._loop(line)
            except RewardError as error:
                run = state.save().parents[1]
                raise RewardError(f"{error} (saved: repair the reward, then rlalign train --resume {run})") from error
        state.save()
        return self.stop.exit_status

    def _loop(self, line: ProgressLine) -> None:
        state = self.state
        while state.step < self.config.steps and not self.stop and not state.early_stopping.should_stop:
            if state.experience is None:
                state.check_weights("before a rollout")
                state.experience = state.collector.collect(state.step)
            experience = state.experience
            while not experience.buffer.done and not self.stop:
                self._update_policy(experience)
            if not experience.buffer.done:
                return  # stopped between two updates: the experience goes into the checkpoint
            self._end_rollout(experience)
            self._supervised_step(experience)
            line.show(state.step, self._log(experience))
            if self._due(self.config.save_every) and state.step < self.config.steps:
                state.save()
                draw(state.folder)

    def resume(self) -> None:
        """Restore the newest checkpoint (see `TrainerState.resume`)."""
        self.state.resume(self.console)

    def close(self) -> None:
        """Close files, trackers and reward workers."""
        if self.state.tracker is not None:
            self.state.tracker.close()
        self.mdp.reward.end_step()  # of a rollout that is not finished: evaluations must not use its step's weights
        self.mdp.reward.close()

    # ---- the parts of a step ----

    def _update_policy(self, experience: Experience) -> None:
        """Take one optimizer step. A non-finite update is skipped and stored, and ends the run if repeated."""
        start = time.perf_counter()
        buffer = experience.buffer
        try:
            metrics = {**self.learner.update(buffer), "train/skipped": 0.0}
            self.failures.record_success("policy")
        except DivergedError as error:
            metrics = {"train/skipped": 1.0}
            rows = buffer.plan[buffer.position - 1]
            batch = {**buffer.batch[rows].tensors(), "tokens": buffer.tokens[rows], "lengths": buffer.lengths[rows]}
            self._warn(self.failures.record_skipped_update("policy", self.state.step + 1, error, batch))
        experience.record_update(metrics)
        experience.metrics["time/update"] += time.perf_counter() - start

    def _end_rollout(self, experience: Experience) -> None:
        """Update the objective's state, the rewards' multipliers and the step count after a finished rollout."""
        self.learner.end_rollout(experience.buffer)
        self.mdp.reward.end_step(experience.buffer.component_means)
        self.state.experience = None
        self.state.step += 1

    def _supervised_step(self, experience: Experience) -> None:
        """Every `align_interval` steps, take a supervised update on the reference answers of the next prompts."""
        supervised = self.config.supervised
        if not self._due(supervised.align_interval):
            return
        tasks = self.state.demonstration_tasks.next(self.config.rollout.prompts)
        demonstrations = build_demonstrations(self.mdp, tasks)
        try:
            experience.record_update(self.learner.supervised_update(demonstrations, supervised.weight))
            self.failures.record_success("supervised")
        except DivergedError as error:
            experience.record_update({"supervised/skipped": 1.0})
            batch = {field.name: getattr(demonstrations, field.name) for field in fields(demonstrations)}
            self._warn(self.failures.record_skipped_update("supervised", self.state.step, error, batch))

    def _log(self, experience: Experience) -> dict[str, float]:
        """Validate where due, and log the step."""
        step = self.state.step
        tracker = self.state.tracker
        assert tracker is not None
        metrics = experience.step_metrics()
        try:
            metrics |= self._validate() if self._due(self.config.evaluation.every) else {}
        except RewardError:
            tracker.log(step, metrics, experience.samples)  # the step is complete except for its validation
            raise
        metrics |= self.state.alarms.update(step, metrics)
        tracker.log(step, metrics, experience.samples)
        return metrics

    def _validate(self) -> dict[str, float]:
        state = self.state
        results = self.validator.evaluate(self.validator.validation_tasks)
        state.early_stopping.record(state.step, results.mean("reward"), state.policy, fingerprint(self.config))
        return {f"eval/{name}": results.mean(name) for name in results.metrics}

    def _due(self, every: int) -> bool:
        return bool(every) and self.state.step % every == 0

    def _warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning[/]: {message}")
