"""The state of a run: everything that a checkpoint holds, how it is saved, and how a run resumes from it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, same_experiment
from rlalign.envs.task_stream import Tasks
from rlalign.errors import FaultError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.trackers import Tracker
from rlalign.policies.base import Policy
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.newest import newest
from rlalign.training.callbacks import StepView
from rlalign.training.early_stopping import EarlyStopping
from rlalign.training.experience import Experience, ExperienceCollector
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.hooks import Hooks
from rlalign.training.kl_budget import KLBudget
from rlalign.training.learner import Learner
from rlalign.training.rng import RngStreams
from rlalign.training.update_buffer import UpdateBuffer

_PARTS = ("policy", "optimizer", "learner", "rng", "progress", "buffer")


@dataclass
class TrainerState:
    """Everything that the next update depends on.

    Attributes:
        config: the run's configuration.
        folder: the run folder.
        policy, learner, rng: weights, optimizer and objective state, random number generators.
        collector: holds the position in the tasks or the data, and the rewards' own state.
        demonstration_tasks: the position in the tasks of supervised updates.
        failures, early_stopping, kl_budget, alarms: counters over steps.
        hooks: callbacks and metrics of the user's own, with their states.
        tracker: the log files; None until the run starts or resumes.
        step: steps done.
        experience: of a step that is not logged yet, else None.
        identity: digests of what decides the result; None: not stored.
        chain: of former runs, for the manifest; None: there are none.
        is_restored: the run has resumed from a checkpoint.
        saved_at: time of the last checkpoint, or of the start, in seconds of the monotonic clock.
    """

    config: TrainConfig
    folder: Path
    policy: Policy
    learner: Learner
    rng: RngStreams
    collector: ExperienceCollector
    demonstration_tasks: Tasks
    failures: FailureLimits
    early_stopping: EarlyStopping
    kl_budget: KLBudget
    alarms: AlarmMonitor
    hooks: Hooks = field(default_factory=Hooks)
    tracker: Tracker | None = None
    step: int = 0
    experience: Experience | None = None
    identity: Mapping[str, Any] | None = None
    chain: Sequence[Mapping[str, Any]] | None = None
    is_restored: bool = False
    saved_at: float = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended before its last step: by early stopping, at its KL budget or by a callback."""
        return self.early_stopping.should_stop or self.kl_budget.should_stop or self.hooks.should_stop

    def check_weights(self, when: str) -> None:
        """Raise FaultError unless all trainable weights are finite."""
        weights = self.policy.trainable()
        # NaN is the minimum and the maximum of a tensor that holds one; isfinite would allocate a copy of each tensor
        extremes = torch.stack([torch.stack(torch.aminmax(p.detach())) for p in weights.values()])
        finite = extremes.isfinite().all(dim=1).tolist()  # one wait for the device
        broken = [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
        if broken:
            raise FaultError(
                f"the weights are not finite {when} ({len(broken)} tensors, first '{broken[0]}'); "
                "resume from the last checkpoint with a lower --learner.lr"
            )

    def view(self, step: int) -> StepView:
        """Return what callbacks see of the run after the updates of a step."""

        def weights() -> dict[str, torch.Tensor]:
            return {name: x.detach().to("cpu", copy=True) for name, x in self.policy.trainable().items()}

        return StepView(step, self.config.steps, self.folder, self.config, weights)

    def open_log(self) -> None:
        """Open the log files of a new run, or of one without a checkpoint; `resume` opens those of other runs."""
        # the folder tells a run that was killed before its first save from one that has lost its checkpoints
        try:
            (self.folder / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise FaultError(
                f"'{self.folder / 'checkpoints'}' cannot be created ({error.strerror}); make '{self.folder}' writable"
            ) from error
        self.tracker = self.tracker or Tracker(self.folder, self.config)
        self.saved_at = time.monotonic()

    def is_save_due(self) -> bool:
        """Return whether this step ends with a checkpoint, by `save_every` or by the time since the last one."""
        config = self.config
        seconds = 60 * config.save_minutes
        by_time = 0 < seconds <= time.monotonic() - self.saved_at
        return by_time or (bool(config.save_every) and self.step % config.save_every == 0)

    def save(self) -> Path:
        """Write a checkpoint and return its path.

        Raises:
            FaultError: when the weights are not finite, or the disk is full.
        """
        assert self.tracker is not None
        if self.learner.steps_begun != self.learner.steps_done:
            raise FaultError("an optimizer step was interrupted, so the weights are of no step")
        self.check_weights("before a save")
        learner = self.learner.state_dict()
        experience = self.experience
        state: checkpoint.State = {
            "policy": dict(self.policy.trainable()),
            "optimizer": learner.pop("optimizer"),
            "learner": learner,
            "rng": self.rng.state_dict(),
            **({"ewc": self.learner.ewc.state_dict()} if self.learner.ewc else {}),
            "progress": {
                "step": self.step,
                **self._positions(),
                "files": self.tracker.state_dict(),
                "stage": experience.stage if experience else "",
                "pending": experience.update_metrics if experience else {},
                "log": [experience.metrics, experience.samples] if experience else [{}, []],
            },
            "buffer": experience.buffer.state_dict() if experience else None,
        }
        path = checkpoint.save(
            self.folder / "checkpoints",
            self.step,
            state,
            config_hash=fingerprint(self.config),
            keep=self.config.keep,
            identity=self.identity,
            chain=self.chain,
        )
        self.saved_at = time.monotonic()
        return path

    def _positions(self) -> dict[str, Any]:
        """Return the positions in the tasks, the counters over steps and the rewards' own state."""
        return {
            "tasks": self.collector.source.state_dict(),
            "answers": self.demonstration_tasks.state_dict(),
            "divergence": self.failures.state_dict(),
            "patience": self.early_stopping.state_dict(),
            "kl_budget": self.kl_budget.state_dict(),
            "reward": dict(self.collector.mdp.reward.state_dict()),
            "hooks": self.hooks.state_dict(),
        }

    def _load_positions(self, progress: Mapping[str, Any]) -> None:
        self.failures.load_state_dict(progress["divergence"])
        if "patience" in progress:
            self.early_stopping.load_state_dict(progress["patience"])
        if "kl_budget" in progress:
            self.kl_budget.load_state_dict(progress["kl_budget"])
        if "hooks" in progress:
            self.hooks.load_state_dict(progress["hooks"])
        self.collector.mdp.reward.load_state_dict(progress.get("reward", {}))
        self.collector.source.load_state_dict(progress["tasks"])
        self.demonstration_tasks.load_state_dict(progress["answers"])

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Restore positions, counters, generators and rewards when the block raises any exception.

        The state is then that before the block, so that a run saved after the error repeats the block when it resumes.
        """
        positions = copy.deepcopy(self._positions())  # the state of a reward of the user's own may be mutable
        rng = self.rng.state_dict()
        experience = self.experience
        metrics = copy.deepcopy(experience.update_metrics) if experience else {}
        try:
            yield
        except BaseException:
            if experience:
                experience.update_metrics = metrics
            self._load_positions(positions)
            self.rng.load_state_dict(rng, self.step)
            self.collector.mdp.reward.end_step()  # without means: the multipliers do not move
            raise

    def resume(self, console: PlainConsole) -> None:
        """Restore the newest checkpoint that verifies, and set damaged newer ones aside.

        If none was written yet (a kill before the first), the run starts again at step 0.

        Raises:
            UserError: the checkpoint is of another configuration.
            FaultError: no checkpoint verifies, a part is missing, or `checkpoints/` is missing or cannot be read while
                steps are logged.
        """
        allow_change = self.config.allow_change
        folder = self.folder / "checkpoints"
        if not folder.exists() and (allow_change or not read_metrics(self.folder)):
            folder.mkdir(exist_ok=True)
        found = newest(folder, need=_PARTS, lenient=allow_change)
        if found is None:
            console.print("no checkpoint was written yet: starting again at step 0")
            return
        path, state, manifest = found.path, found.state, found.manifest
        for problem in found.damaged.values():
            console.warn(f"{problem}; using {path.name}")
        if not same_experiment(self.config, manifest["config"]) and not allow_change:
            raise UserError(
                f"'{path}' was written under another configuration than config.json and these arguments; "
                "correct config.json, or insist with --allow-change"
            )
        if "policy" not in state or "progress" not in state:
            raise FaultError(f"checkpoint '{path}' has no weights or no position, so nothing can be resumed from it")
        self.policy.load_trainable(state["policy"])
        if "learner" in state and "optimizer" in state:
            self.learner.load_state_dict({**state["learner"], "optimizer": state["optimizer"]})
        if self.learner.ewc:
            self.learner.ewc.load_state_dict(state.get("ewc"))
        self._load_progress(state["progress"], state.get("buffer"), console)
        self.is_restored = True
        found.set_damaged_aside()
        if "rng" in state and not self.rng.load_state_dict(state["rng"], self.step):
            console.warn(
                f"the checkpoint was written on {state['rng']['device']} and the run resumes on "
                f"{self.policy.device.type}: its sampler is seeded again, so the run is not bitwise reproducible"
            )

    def _load_progress(self, progress: dict[str, Any], buffer: dict[str, Any] | None, console: PlainConsole) -> None:
        self.step = progress["step"]
        try:
            self._load_positions(progress)
        except FaultError as error:
            if not self.config.allow_change:
                raise
            console.warn(f"{error}; it begins again")
        if buffer:
            metrics, samples = progress["log"]
            tensors = UpdateBuffer.from_state(buffer, self.policy.device)
            stage = progress.get("stage", "updates")  # earlier versions stopped between two updates only
            self.experience = Experience(tensors, metrics, samples, progress["pending"], stage)
        self.tracker = Tracker(self.folder, self.config, progress["files"], lenient=self.config.allow_change)
        self.alarms.resume()
