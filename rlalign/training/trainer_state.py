"""The state of a run: everything that a checkpoint holds, how it is saved, and how a run resumes from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, same_experiment
from rlalign.envs.task_sources import TaskStream
from rlalign.errors import FaultError, UserError
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.trackers import Tracker
from rlalign.policies.base import Policy
from rlalign.storage import checkpoint
from rlalign.training.early_stopping import EarlyStopping
from rlalign.training.experience import Experience, ExperienceCollector
from rlalign.training.failure_limits import FailureLimits
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
        collector: holds the position in the tasks and the rewards' own state.
        demonstration_tasks: the position in the tasks of supervised updates.
        failures, early_stopping, alarms: counters over steps.
        tracker: the log files; None until the run starts or resumes.
        step: steps done.
        experience: of a step whose updates are not all done, else None.
    """

    config: TrainConfig
    folder: Path
    policy: Policy
    learner: Learner
    rng: RngStreams
    collector: ExperienceCollector
    demonstration_tasks: TaskStream
    failures: FailureLimits
    early_stopping: EarlyStopping
    alarms: AlarmMonitor
    tracker: Tracker | None = None
    step: int = 0
    experience: Experience | None = None

    def check_weights(self, when: str) -> None:
        """Raise FaultError unless all trainable weights are finite."""
        weights = self.policy.trainable()
        finite = torch.stack([torch.isfinite(p).all() for p in weights.values()]).tolist()  # one wait for the device
        broken = [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
        if broken:
            raise FaultError(
                f"the weights are not finite {when} ({len(broken)} tensors, first '{broken[0]}'); "
                "resume from the last checkpoint with a lower --learner.lr"
            )

    def save(self) -> Path:
        """Write a checkpoint and return its path.

        Raises:
            FaultError: when the weights are not finite, or the disk is full.
        """
        assert self.tracker is not None
        self.check_weights("before a save")
        learner = self.learner.state_dict()
        reward = self.collector.mdp.reward
        experience = self.experience
        state: checkpoint.State = {
            "policy": dict(self.policy.trainable()),
            "optimizer": learner.pop("optimizer"),
            "learner": learner,
            "rng": self.rng.state_dict(),
            "progress": {
                "step": self.step,
                "tasks": self.collector.tasks.state_dict(),
                "answers": self.demonstration_tasks.state_dict(),
                "files": self.tracker.state_dict(),
                "divergence": self.failures.state_dict(),
                "patience": self.early_stopping.state_dict(),
                "reward": dict(reward.state_dict()),
                "pending": experience.update_metrics if experience else {},
                "log": [experience.metrics, experience.samples] if experience else [{}, []],
            },
            "buffer": experience.buffer.state_dict() if experience else None,
        }
        return checkpoint.save(
            self.folder / "checkpoints", self.step, state, config_hash=fingerprint(self.config), keep=self.config.keep
        )

    def resume(self, console: Console) -> None:
        """Restore the newest checkpoint. Without one (a kill before the first), the run starts again at step 0.

        Raises:
            UserError: when the checkpoint is of another configuration.
            FaultError: when it is damaged or incomplete.
        """
        if not checkpoint.complete(self.folder / "checkpoints"):
            console.print("no checkpoint was written yet: starting again at step 0")
            return
        path = checkpoint.latest(self.folder / "checkpoints")
        allow_change = self.config.allow_change
        state, manifest = checkpoint.load(path, need=_PARTS, lenient=allow_change)
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
        self._load_progress(state["progress"], state.get("buffer"))
        if "rng" in state and not self.rng.load_state_dict(state["rng"], self.step):
            console.print(
                f"warning: the checkpoint was written on {state['rng']['device']} and the run resumes on "
                f"{self.policy.device.type}: its sampler is seeded again, so the run is not bitwise reproducible"
            )

    def _load_progress(self, progress: dict[str, Any], buffer: dict[str, Any] | None) -> None:
        self.step = progress["step"]
        self.failures.load_state_dict(progress["divergence"])
        if "patience" in progress:
            self.early_stopping.load_state_dict(progress["patience"])
        reward = self.collector.mdp.reward
        reward.load_state_dict(progress.get("reward", {}))
        self.collector.tasks.load_state_dict(progress["tasks"])
        self.demonstration_tasks.load_state_dict(progress["answers"])
        if buffer:
            metrics, samples = progress["log"]
            tensors = UpdateBuffer.from_state(buffer, self.policy.device)
            self.experience = Experience(tensors, metrics, samples, progress["pending"])
        self.tracker = Tracker(self.folder, self.config, progress["files"], lenient=self.config.allow_change)
        self.alarms.resume()
