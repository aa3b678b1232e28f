"""The loop: prompt → rollout → reward → advantage → loss → step → log, and what keeps it alive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, same_experiment
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import FaultError, RewardError, UserError
from rlalign.evaluation.evaluate import Evaluation, evaluate, held_out
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.diagnostics import gold_of, rollout_diagnostics
from rlalign.log.metrics import kl_metric, rollout_metrics, samples_of
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import Rollout, collect
from rlalign.rollout.component_normalization import decoupled, refuse_parts
from rlalign.rollout.dynamic_sampling import joined, with_signal
from rlalign.storage import checkpoint
from rlalign.training.early_stopping import EarlyStopping
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.learner import DivergedError, Learner
from rlalign.training.rng import RngStreams
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised import demonstrations
from rlalign.training.update_buffer import Buffer
from rlalign.types import Task


class Trainer:
    """A run under way: all its state, one loop, and how it is saved.

    Args:
        config: validated configuration.
        folder: the run folder.
        policy, mdp: at their start, speaking the same tokens.
        stop: set from outside to stop between two updates.
        quiet: show nothing.
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
        self.config, self.folder, self.policy, self.mdp, self.quiet = config, folder, policy, mdp, quiet
        self.stop = StopRequest() if stop is None else stop  # false until asked, so no `or`
        self.console = Console(quiet=quiet, highlight=False)
        r, ln = config.rollout, config.learner
        self.rng = RngStreams(config.seed, policy.device)
        self.sampler = make_sampler(r.sampler, policy)
        self.tasks = TaskStream(mdp.source, "train", seed=self.rng.tasks)
        self.answers = TaskStream(mdp.source, "train", seed=self.rng.answers)
        self.env = TokenVectorEnv(self.mdp, config.samples_per_step)
        self.learner = Learner(
            self.policy,
            config.objective,
            ln,
            sampling=r.sampling,
            total_updates=config.steps * ln.epochs * ln.minibatches,
            generator=self.rng.shuffle,
            max_length=self.mdp.max_new * self.mdp.max_turns,
        )
        self.step = 0
        self.buffer: Buffer | None = None
        self.pending: dict[str, list[float]] = {}  # train/ metrics of the updates made from the current buffer
        self.rollout_log: tuple[dict[str, float], list[dict[str, Any]]] = ({}, [])
        self.failures = FailureLimits(folder, ln.max_bad_updates, fingerprint(config))
        self.early_stopping = EarlyStopping(folder, config.evaluation.patience)
        self.watch = AlarmMonitor(folder, self.console)
        self.tracker: Tracker | None = None
        weights = {} if mdp.reward is None else mdp.reward.weights
        self.gold = gold_of(mdp, weights)
        if r.per_component and mdp.reward is not None:
            refuse_parts(mdp.reward.scopes, weights)

    # ---- the loop ----

    def run(self) -> int:
        """Train to the last step, or until asked to stop; return the exit status (143 or 130 after a signal)."""
        config = self.config
        self.tracker = self.tracker or Tracker(self.folder, config)
        with ProgressLine(config.steps, self.step, quiet=self.quiet) as line:
            while self.step < config.steps and not self.stop and not self.early_stopping.at_end:
                if self.buffer is None:
                    self.buffer = self._collect()
                while not self.buffer.done and not self.stop:
                    self._update(self.buffer)
                if not self.buffer.done:
                    break  # stopped between two updates: the buffer goes into the checkpoint
                self.buffer, self.step = None, self.step + 1
                self._align()
                line.show(self.step, self._log())
                if self._due(config.save_every) and self.step < config.steps:
                    self.save()
                    draw(self.folder)
        self.save()
        return self.stop.exit_status

    def _collect(self) -> Buffer:
        """Play the next tasks; prepare the buffer that the updates learn from."""
        began = time.perf_counter()
        self._refuse_broken_weights("before a rollout")
        self.policy.begin_rollout()
        r = self.config.rollout
        start = self.tasks.state_dict(), self.rng.state_dict()
        tasks = self.tasks.next(r.prompts)
        try:
            return self._learnable(tasks, began)
        except RewardError as error:
            # As if the rollout had never begun: with the reward mended, --resume goes on with the same prompts.
            self.tasks.load_state_dict(start[0])
            self.rng.load_state_dict(start[1], self.step)
            if self.mdp.reward is not None:
                self.mdp.reward.end_step()
            self._stop_mending(error)

    def _stop_mending(self, error: RewardError) -> NoReturn:
        """Save, and say how to go on once the reward is mended."""
        path = self.save()
        raise RewardError(f"{error} (saved: mend the reward, then rlalign train --resume {path.parents[1]})") from error

    def _learnable(self, tasks: Sequence[Task], began: float) -> Buffer:
        """Trajectories of the tasks, scored by everything that the axes ask for."""
        r, reward = self.config.rollout, self.mdp.reward
        if reward is not None:
            reward.begin_step(self.step)
        self.env.reward_seconds = 0.0
        looks: list[dict[str, Tensor | None]] = []

        def look(*layout: Tensor) -> None:
            looks.append(self.learner.precompute_logprobs(*layout))

        again = (
            self.config.objective.filter.dynamic_sampling
        )  # then other rows may be learnt from than are played first
        with torch.no_grad():
            rollout = self._play(self.env, tasks, r.group_size, while_scoring=None if again else look)
            drawn, greedy = [rollout], None
            if again:
                rollout, drawn = with_signal(self._draw_again, rollout, max_draws=r.max_draws)
                tasks = rollout.tasks[:: r.group_size]
            if self.config.objective.needs_greedy:
                best = self._play(TokenVectorEnv(self.mdp, r.prompts), tasks, 1, greedy=True)
                greedy = best.returns.repeat_interleave(r.group_size)
                # where the greedy completion's reward failed there is no baseline, and 0 would be a made-up one
                rollout = replace(rollout, valid=rollout.valid & greedy.isfinite())
                greedy = greedy.nan_to_num()
        weights = {} if reward is None else reward.weights
        rolled = time.perf_counter()
        learnt = decoupled(rollout, weights) if r.per_component else rollout
        buffer = self.learner.prepare(learnt, greedy_rewards=greedy, seen=looks[0] if looks else None)
        times = {"time/rollout": rolled - began, "time/prepare": time.perf_counter() - rolled, "time/update": 0.0}
        times["time/reward"] = self.env.reward_seconds  # a part of time/rollout
        seen = rollout if len(drawn) == 1 else joined(drawn)
        failures = self._failures()
        if bool(rollout.valid.any()):
            self.failures.passed("reward")
        else:
            why = ", ".join(f"{name.removeprefix('reward/')}: {count:.0f}" for name, count in failures.items())
            self._warn(self.failures.unrewarded(self.step + 1, why))
        metrics = rollout_metrics(seen) | kl_metric(rollout, buffer.batch.ref_logprobs) | failures | times
        metrics |= rollout_diagnostics(seen, self.mdp, self.gold)
        metrics["rollout/draws"] = float(len(drawn))
        if self.config.objective.kl.target > 0:
            metrics["train/kl_coef"] = self.learner.state.kl_coef  # the one that this step's updates use
        if reward is not None:
            metrics |= {f"reward/{name}/weight": weights[name] for name in reward.scheduled}
            reward.end_step({name: float(values.nanmean()) for name, values in seen.components.items()})
        self.rollout_log = (metrics, samples_of(rollout))
        self.pending = {}
        return buffer

    def _failures(self) -> dict[str, float]:
        """reward/NAME/KIND: how often a component raised, hung, died, or returned None or NaN in this step."""
        found = {} if self.mdp.reward is None else self.mdp.reward.pop_failures()
        return {f"reward/{name}/{kind}": float(n) for name, kinds in found.items() for kind, n in kinds.items() if n}

    def _draw_again(self) -> Rollout:
        r = self.config.rollout
        return self._play(self.env, self.tasks.next(r.prompts), r.group_size)

    def _play(self, env: TokenVectorEnv, tasks: Sequence[Task], group_size: int, **settings: Any) -> Rollout:
        return collect(
            env,
            self.sampler,
            tasks,
            group_size=group_size,
            sampling=self.config.rollout.sampling,
            generator=self.rng.sampler,
            seed=self.rng.episodes(self.step),
            **settings,
        )

    def _update(self, buffer: Buffer) -> None:
        """One optimizer step; a non-finite one is skipped, kept for inspection, and ends the run when it repeats."""
        began = time.perf_counter()
        try:
            stats = {**self.learner.update(buffer), "train/skipped": 0.0}
            self.failures.passed("policy")
        except DivergedError as error:
            stats = {"train/skipped": 1.0}
            rows = buffer.plan[buffer.position - 1]
            kept = {**buffer.batch[rows].tensors(), "tokens": buffer.tokens[rows], "lengths": buffer.lengths[rows]}
            self._warn(self.failures.skipped("policy", self.step + 1, error, kept))
        for name, value in stats.items():
            self.pending.setdefault(name, []).append(value)
        self.rollout_log[0]["time/update"] += time.perf_counter() - began

    def _align(self) -> None:
        """Every `align_interval` steps, a supervised update on the answers of the next prompts."""
        s = self.config.supervised
        if not s.align_interval or self.step % s.align_interval:
            return
        answers = demonstrations(self.mdp, self.answers.next(self.config.rollout.prompts))
        try:
            self.pending |= {k: [v] for k, v in self.learner.supervise(answers, s.weight).items()}
            self.failures.passed("supervised")
        except DivergedError as error:
            self.pending["supervised/skipped"] = [1.0]
            kept = {f.name: getattr(answers, f.name) for f in fields(answers)}
            self._warn(self.failures.skipped("supervised", self.step, error, kept))

    def _warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning[/]: {message}")

    def _log(self) -> dict[str, float]:
        """Write the finished step: means over its updates."""
        assert self.tracker is not None
        metrics, samples = self.rollout_log
        metrics = metrics | {name: sum(v) / len(v) for name, v in self.pending.items()}
        seconds = sum(v for k, v in metrics.items() if k in ("time/rollout", "time/prepare", "time/update"))
        metrics |= {"time/step": seconds, "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9)}
        try:
            metrics |= self._validate() if self._due(self.config.evaluation.every) else {}
        except RewardError as error:
            self.tracker.log(self.step, metrics, samples)  # the step is done, only its validation is missing
            self._stop_mending(error)
        metrics |= self.watch.update(self.step, metrics)
        self.tracker.log(self.step, metrics, samples)
        return metrics

    def _due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    # ---- held-out prompts ----

    @cached_property
    def held_out(self) -> list[Task]:
        """The prompts of every validation; found once, since a small procedural family is searched for long."""
        return held_out(self.mdp, self.config.evaluation.split, self.config.evaluation.prompts)

    @cached_property
    def unseen(self) -> list[Task]:
        """The prompts of before and after: the held-out ones, or others where those choose the weights."""
        e = self.config.evaluation
        return held_out(self.mdp, "test", e.prompts) if e.patience else self.held_out

    def evaluate(self, tasks: Sequence[Task]) -> Evaluation:
        """Performance on these prompts now; draws from its own generator, so that it changes nothing."""
        e = self.config.evaluation
        found = evaluate(
            self.policy,
            self.mdp,
            tasks,
            samples=e.samples,
            sampling=self.config.rollout.sampling,
            seed=self.config.seed,
            sampler=self.config.rollout.sampler,
        )
        self._failures()  # those of held-out prompts are no part of the next step's count
        return found

    def _validate(self) -> dict[str, float]:
        now = self.evaluate(self.held_out)
        self.early_stopping.note(self.step, now.mean("reward"), self.policy, fingerprint(self.config))
        return {f"eval/{name}": now.mean(name) for name in now.metrics}

    # ---- faults and state ----

    def _refuse_broken_weights(self, when: str) -> None:
        weights = self.policy.trainable()
        finite = torch.stack([torch.isfinite(p).all() for p in weights.values()]).tolist()  # one wait for all of them
        broken = [name for name, fine in zip(weights, finite, strict=True) if not fine]
        if broken:
            raise FaultError(
                f"the weights are not finite {when} ({len(broken)} tensors, first '{broken[0]}'): "
                "resume from the last checkpoint with a lower --learner.lr"
            )

    def save(self) -> Path:
        """Write a checkpoint of everything that the next update depends on."""
        assert self.tracker is not None
        self._refuse_broken_weights("before a save")
        learner = self.learner.state_dict()
        state: checkpoint.State = {
            "policy": dict(self.policy.trainable()),
            "optimizer": learner.pop("optimizer"),
            "learner": learner,
            "rng": self.rng.state_dict(),
            "progress": {
                "step": self.step,
                "tasks": self.tasks.state_dict(),
                "answers": self.answers.state_dict(),
                "files": self.tracker.state_dict(),
                "divergence": self.failures.state_dict(),
                "patience": self.early_stopping.state_dict(),
                "reward": {} if self.mdp.reward is None else dict(self.mdp.reward.state_dict()),
                "pending": self.pending,
                "log": list(self.rollout_log),
            },
            "buffer": None if self.buffer is None else self.buffer.state_dict(),
        }
        return checkpoint.save(
            self.folder / "checkpoints", self.step, state, config_hash=fingerprint(self.config), keep=self.config.keep
        )

    def resume(self) -> None:
        """Take up the newest checkpoint; without any (a kill before the first), the run begins again.

        Raises UserError or FaultError when it is damaged, incomplete or of another configuration.
        """
        if not checkpoint.complete(self.folder / "checkpoints"):
            self.console.print("no checkpoint was written yet: beginning again at step 0")
            return
        path = checkpoint.latest(self.folder / "checkpoints")
        need = ("policy", "optimizer", "learner", "rng", "progress", "buffer")
        state, manifest = checkpoint.load(path, need=need, lenient=self.config.allow_change)
        if not same_experiment(self.config, manifest["config"]) and not self.config.allow_change:
            raise UserError(
                f"'{path}' was written under another configuration than config.json and these arguments say: "
                "put config.json right, or insist with --allow-change"
            )
        if "policy" not in state or "progress" not in state:
            raise FaultError(f"checkpoint '{path}' has no weights or no position: nothing can be resumed from it")
        self.policy.load_trainable(state["policy"])
        if "learner" in state and "optimizer" in state:
            self.learner.load_state_dict({**state["learner"], "optimizer": state["optimizer"]})
        progress = state["progress"]
        self.step, self.pending = progress["step"], progress["pending"]
        self.failures.load_state_dict(progress["divergence"])
        self.rollout_log = (progress["log"][0], progress["log"][1])
        if "patience" in progress:
            self.early_stopping.load_state_dict(progress["patience"])
        if self.mdp.reward is not None:
            self.mdp.reward.load_state_dict(progress.get("reward", {}))
        self.tasks.load_state_dict(progress["tasks"])
        self.answers.load_state_dict(progress["answers"])
        self.buffer = Buffer.from_state(state["buffer"], self.policy.device) if state.get("buffer") else None
        self.tracker = Tracker(self.folder, self.config, progress["files"], lenient=self.config.allow_change)
        self.watch.resume()
        if "rng" in state and not self.rng.load_state_dict(state["rng"], self.step):
            self.console.print(
                f"the run was on {state['rng']['device']} and goes on on {self.policy.device.type}: its sampler is "
                "seeded anew, so it is not bitwise what it would have been"
            )

    def close(self) -> None:
        """Close files, trackers and reward workers."""
        if self.tracker is not None:
            self.tracker.close()
        if self.mdp.reward is not None:
            self.mdp.reward.close()
