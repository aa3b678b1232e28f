"""The training loop: collect experience, update the policy, log, validate, save."""

from __future__ import annotations

import time
from pathlib import Path

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint
from rlalign.continual import Continuation
from rlalign.continual.chain import as_json
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.stream import task_stream
from rlalign.escaping.console import PlainConsole
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.policies.base import Policy
from rlalign.policies.device import on_device
from rlalign.recorded.read import RecordedData
from rlalign.teachers.make import Teacher
from rlalign.training.early_stopping import EarlyStopping
from rlalign.training.end_of_step import EndOfStep
from rlalign.training.experience import Experience, ExperienceCollector
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.hooks import Hooks
from rlalign.training.kl_budget import KLBudget
from rlalign.training.learner import DivergedError, Learner
from rlalign.training.out_of_memory import during
from rlalign.training.recorded_run import HeldOutData
from rlalign.training.rng import RngStreams
from rlalign.training.rollout_source import rollout_source
from rlalign.training.stages import report_stage
from rlalign.training.stop_request import StopRequest
from rlalign.training.trainer_state import TrainerState
from rlalign.training.validation import Validator
from rlalign.training.way_out import Ending, leave
from rlalign.types import Sampling


class Trainer:
    """The training loop of one run. `reference_loop.py` is the minimal version of it.

    Args:
        config: a validated configuration.
        folder: the run folder.
        policy: the initial policy.
        mdp: the environment, bound to the policy's tokenizer.
        data: recorded data to learn from; None: the policy samples.
        teacher: of distillation; None: there is none.
        former: what the run takes from the run that it continues; None: it continues none.
        hooks: callbacks and metrics of the user's own; None: there are none.
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
        data: RecordedData | None = None,
        teacher: Teacher | None = None,
        former: Continuation | None = None,
        hooks: Hooks | None = None,
        stop: StopRequest | None = None,
        quiet: bool = False,
    ) -> None:
        self.config = config
        self.mdp = mdp
        self.quiet = quiet
        self.stop = StopRequest() if stop is None else stop  # a request is false at first: `or` would replace it
        self.console = PlainConsole(quiet=quiet)
        hooks = hooks or Hooks()
        self.validator = Validator(config, policy, mdp, teacher, hooks.metrics)
        self.former = former or Continuation(config, policy, self.console)
        mdp = self.former.with_replay(mdp)  # evaluations are on the run's own environment alone
        self.held_out = HeldOutData(config, policy, data) if data is not None else None
        rng = RngStreams(config.seed, policy.device)
        self.learner = Learner(
            policy,
            config.objective,
            config.learner,
            # recorded tokens were not sampled here: neither temperature nor truncation applies
            sampling=config.rollout.sampling if data is None else Sampling(),
            total_updates=config.steps * config.learner.epochs * config.learner.minibatches,
            generator=rng.shuffle,
            max_length=mdp.max_actions if data is None else data.longest,
            reference=self.former.reference if teacher is None else teacher,
            second_reference=self.former.second_reference,
            ewc=self.former.ewc,
        )
        source = rollout_source(config, mdp, self.learner, rng, data=data, teacher=teacher)
        self.failures = FailureLimits(folder, config.learner.max_bad_updates, fingerprint(config))
        self.state = TrainerState(
            config=config,
            folder=folder,
            policy=policy,
            learner=self.learner,
            rng=rng,
            collector=ExperienceCollector(config, policy, mdp, self.learner, source, hooks, self.failures, self._warn),
            demonstration_tasks=task_stream(mdp, seed=rng.demonstration_seed),
            failures=self.failures,
            early_stopping=EarlyStopping(folder, config.evaluation.patience),
            kl_budget=KLBudget(config.evaluation.stop_kl, config.evaluation.every),
            alarms=AlarmMonitor(folder, self.console),
            hooks=hooks,
            chain=as_json(self.former.chain) or None,
        )
        self.end_of_step = EndOfStep(self.state, self.validator, self.held_out, self.stop, self._warn)

    def run(self) -> int:
        """Train to the last step, or until a stop is requested. However the run ends, its state is saved first.

        Returns:
            The exit status, 0, or 128 + n after signal n.

        Raises:
            RLAlignError: any error ended the run (see `rlalign.training.way_out`).
        """
        state = self.state
        state.open_log()
        ending = None
        with on_device(state.policy.device), ProgressLine(self.config.steps, state.step, quiet=self.quiet) as line:
            try:
                self._loop(line)
                state.save()
            except BaseException as error:
                ending = Ending.of(error)
        if ending is not None:  # here, because inside `except` the traceback still holds the tensors
            leave(state, self.stop, ending)
        return self.stop.exit_status

    def _loop(self, line: ProgressLine) -> None:
        state = self.state
        while state.step < self.config.steps and not self.stop and not state.has_ended:
            if state.experience is None:
                state.check_weights("before a rollout")
                with during("rollout"), state.undone_on_error():
                    state.experience = state.collector.collect(state.step)
                report_stage(self.mdp, state.step, state.experience.metrics, self.console)
            experience = state.experience
            while not experience.buffer.done and not self.stop:
                self._update_policy(experience)
            if not experience.buffer.done:
                return  # stopped between two updates: the experience goes into the checkpoint
            metrics = self.end_of_step.finish(experience)
            line.show(state.step, metrics)
            if state.is_save_due() and state.step < self.config.steps:
                state.save()
                draw(state.folder)

    def resume(self) -> None:
        """Restore the newest checkpoint (see `TrainerState.resume`)."""
        self.state.resume(self.console)

    def begin(self) -> None:
        """Take the optimizer's state and the Fisher information from a former run, unless a checkpoint was restored."""
        if not self.state.is_restored:
            self.former.begin(self.learner.optimizer)

    def close(self) -> None:
        """Close files, trackers and reward workers."""
        if self.state.tracker is not None:
            self.state.tracker.close()
        reward = self.state.collector.mdp.reward  # with those of replay
        reward.end_step()  # of a rollout that is not finished: evaluations must not use its step's weights
        reward.close()

    def _update_policy(self, experience: Experience) -> None:
        """Take one optimizer step. A non-finite update is skipped and stored, and ends the run if repeated."""
        start = time.perf_counter()
        buffer = experience.buffer
        position = buffer.position
        steps_before = self.learner.steps_begun
        try:
            with during("update"):
                metrics = {**self.learner.update(buffer), "train/skipped": 0.0}
            self.failures.record_success("policy")
        except DivergedError as error:
            experience.record_update({"train/skipped": 1.0})
            rows = buffer.plan[buffer.position - 1]
            batch = {**buffer.batch[rows].tensors(), "tokens": buffer.tokens[rows], "lengths": buffer.lengths[rows]}
            self._warn(self.failures.record_skipped_update("policy", self.state.step + 1, error, batch))
        except BaseException:
            if self.learner.steps_begun == steps_before:
                buffer.position = position  # no step was taken: a resumed run repeats the update
            else:
                experience.record_update({**self.learner.last_metrics, "train/skipped": 0.0})
            raise
        else:
            experience.record_update(metrics)
        experience.metrics["time/update"] += time.perf_counter() - start

    def _warn(self, message: str) -> None:
        if message:
            self.console.warn(message)
