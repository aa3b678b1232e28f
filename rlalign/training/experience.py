"""Experience of one step: rollout → log-probs and values → advantages, as a buffer to learn from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.log.diagnostics import gold_of, rollout_diagnostics
from rlalign.log.metrics import (
    environment_metrics,
    kl_metric,
    logged_metrics,
    recorded_metrics,
    rollout_metrics,
    samples_of,
)
from rlalign.policies.base import Policy
from rlalign.rollout.collect import Rollout
from rlalign.rollout.component_normalization import check_scopes, normalize_components
from rlalign.rollout.source import Drawn, RolloutSource
from rlalign.training.distillation import distilled, distills, imitates, reads_reward, teacher_metrics
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.hooks import Hooks
from rlalign.training.learner import Learner
from rlalign.training.update_buffer import UpdateBuffer


@dataclass
class Experience:
    """One rollout, what is logged about it, and the metrics of the updates made from it so far.

    Attributes:
        buffer: tensors and planned minibatches.
        metrics: metrics of the rollout: rollout/, reward/, train/ and time/.
        samples: a few trajectories, for samples.jsonl.
        update_metrics: name -> one value per update.
        stage: what the step does next: "updates", "supervised" (after the last update) or "log".
    """

    buffer: UpdateBuffer
    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    update_metrics: dict[str, list[float]] = field(default_factory=dict)
    stage: str = "updates"

    def record_update(self, metrics: dict[str, float]) -> None:
        """Add the metrics of one update.

        Args:
            metrics: name -> value, as `Learner.update` returns them.
        """
        for name, value in metrics.items():
            self.update_metrics.setdefault(name, []).append(value)

    def step_metrics(self) -> dict[str, float]:
        """Return all metrics of the step: those of the rollout, and means over its updates.

        time/step is the sum of time/rollout, time/prepare and time/update in seconds, time/tokens_per_s the sampled
        tokens per second of it.
        """
        metrics = self.metrics | {name: sum(values) / len(values) for name, values in self.update_metrics.items()}
        if "rollout/teacher_entropy" in metrics and "train/pg_loss" in metrics:
            # on the teacher's samples the loss is the cross-entropy
            metrics["train/forward_kl"] = metrics["train/pg_loss"] - metrics["rollout/teacher_entropy"]
        seconds = sum(metrics[f"time/{part}"] for part in ("rollout", "prepare", "update"))
        return metrics | {"time/step": seconds, "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9)}


class ExperienceCollector:
    """Collects the experience of one step after another.

    Args:
        config: the run's configuration.
        policy: told that its weights have changed, before each rollout.
        mdp: the environment, bound to the policy's tokenizer.
        learner: computes log-probs, values and advantages.
        source: of the rollouts.
        hooks: callbacks and metrics that see each rollout.
        failures: counts steps without a valid reward.
        warn: prints a warning.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        mdp: TextMDP,
        learner: Learner,
        source: RolloutSource,
        hooks: Hooks,
        failures: FailureLimits,
        warn: Callable[[str], None],
    ) -> None:
        self.config = config
        self.policy = policy
        self.mdp = mdp
        self.learner = learner
        self.source = source
        self.hooks = hooks
        self.failures = failures
        self.warn = warn
        self.gold = gold_of(mdp, mdp.reward.weights)
        if config.rollout.per_component:
            check_scopes(mdp.reward.scopes, mdp.reward.weights)

    def collect(self, step: int) -> Experience:
        """Draw the next rollout and prepare the updates.

        Args:
            step: the step, from 0.

        Raises:
            RewardError: a reward failed, or too many steps had no valid reward.
        """
        start = time.perf_counter()
        self.policy.begin_rollout()
        self.mdp.reward.begin_step(step)
        drawn = self.source.draw(step)
        rollout_end = time.perf_counter()
        weights = self.mdp.reward.weights
        learned = normalize_components(drawn.rollout, weights) if self.config.rollout.per_component else drawn.rollout
        buffer = self.learner.prepare(
            distilled(self.config, learned),
            greedy_rewards=drawn.greedy_rewards,
            precomputed=drawn.precomputed,
            mismatched=drawn.mismatched,
            recorded=drawn.passes is not None or imitates(self.config),
        )
        times = {
            "time/rollout": rollout_end - start,
            "time/prepare": time.perf_counter() - rollout_end,
            "time/update": 0.0,
            "time/reward": drawn.reward_seconds,  # a part of time/rollout
        }
        samples = samples_of(drawn.rollout)
        if drawn.passes is not None:
            own = self.hooks.after_rollout(step + 1, drawn.rollout, buffer)
            return Experience(buffer, recorded_metrics(drawn.rollout, drawn.passes) | own | times, samples)
        buffer.component_means = {name: float(v.nanmean()) for name, v in drawn.everything.components.items()}
        failures = self._pop_failures()
        self._check_rewards(step, drawn.rollout, failures)
        logged = logged_metrics(self.mdp.reward)
        own = self.hooks.after_rollout(step + 1, drawn.everything, buffer)
        metrics = self._metrics(drawn, buffer, weights) | logged | failures | own | times
        return Experience(buffer, metrics | {"rollout/draws": float(drawn.draws)}, samples)

    def _metrics(self, drawn: Drawn, buffer: UpdateBuffer, weights: Mapping[str, float]) -> dict[str, float]:
        """Return rollout/, reward/ and train/ metrics."""
        metrics = rollout_metrics(drawn.everything)
        if distills(self.config):
            metrics |= teacher_metrics(self.config, drawn.rollout, buffer.batch.ref_logprobs)
            if imitates(self.config):
                del metrics["rollout/entropy"]  # it is the teacher's
        else:
            metrics |= kl_metric(drawn.rollout, buffer.batch.ref_logprobs, buffer.batch.second_ref_logprobs)
        metrics |= rollout_diagnostics(drawn.everything, self.mdp, self.gold)
        metrics |= environment_metrics(drawn.everything) | dict(drawn.order)
        if self.config.on_bad_record == "drop":
            metrics["rollout/dropped_records"] = float(getattr(self.mdp.source, "dropped", 0))
        if self.config.objective.kl.target > 0:
            metrics["train/kl_coef"] = self.learner.state.kl_coef  # beta of this step's updates
        return metrics | {f"reward/{name}/weight": weights[name] for name in self.mdp.reward.scheduled}

    def _check_rewards(self, step: int, rollout: Rollout, failures: dict[str, float]) -> None:
        """Count a step without a valid reward. Raises RewardError when there are too many in a row."""
        if bool(rollout.valid.any()) or not reads_reward(self.config):
            self.failures.record_success("reward")
            return
        reasons = ", ".join(f"{name.removeprefix('reward/')}: {count:.0f}" for name, count in failures.items())
        self.warn(self.failures.record_step_without_reward(step + 1, reasons))

    def _pop_failures(self) -> dict[str, float]:
        """Return reward/NAME/KIND: how often a component failed, in which way, since the last call."""
        counts = self.mdp.reward.pop_failures()
        return {f"reward/{name}/{kind}": float(n) for name, kinds in counts.items() for kind, n in kinds.items() if n}
