"""Experience of one step: tasks → rollout → rewards → log-probs and values → advantages, as a buffer to learn from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_stream import TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.log.diagnostics import gold_of, rollout_diagnostics
from rlalign.log.metrics import kl_metric, logged_metrics, rollout_metrics, samples_of
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import Rollout, collect
from rlalign.rollout.component_normalization import check_scopes, normalize_components
from rlalign.rollout.dynamic_sampling import join, resample_groups
from rlalign.training.failure_limits import FailureLimits
from rlalign.training.learner import Learner
from rlalign.training.rng import RngStreams
from rlalign.training.update_buffer import UpdateBuffer
from rlalign.types import Task


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
        seconds = sum(metrics[f"time/{part}"] for part in ("rollout", "prepare", "update"))
        return metrics | {"time/step": seconds, "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9)}


class ExperienceCollector:
    """Collects the experience of one step after another.

    Args:
        config: the run's configuration.
        policy: samples the completions.
        mdp: the environment, bound to the policy's tokenizer.
        learner: computes log-probs, values and advantages.
        rng: the run's random number generators.
        failures: counts steps without a valid reward.
        warn: prints a warning.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        mdp: TextMDP,
        learner: Learner,
        rng: RngStreams,
        failures: FailureLimits,
        warn: Callable[[str], None],
    ) -> None:
        self.config = config
        self.policy = policy
        self.mdp = mdp
        self.learner = learner
        self.rng = rng
        self.failures = failures
        self.warn = warn
        self.sampler = make_sampler(config.rollout.sampler, policy)
        self.tasks = TaskStream(mdp.source, "train", seed=rng.task_seed)
        self.env = TokenVectorEnv(mdp, config.samples_per_step)
        self.gold = gold_of(mdp, mdp.reward.weights)
        if config.rollout.per_component:
            check_scopes(mdp.reward.scopes, mdp.reward.weights)

    def collect(self, step: int) -> Experience:
        """Sample the next tasks and prepare the updates.

        Args:
            step: the step, from 0.

        Raises:
            RewardError: a reward failed, or too many steps had no valid reward.
        """
        start = time.perf_counter()
        self.policy.begin_rollout()
        tasks = self.tasks.next(self.config.rollout.prompts)
        self.mdp.reward.begin_step(step)
        self.env.reward_seconds = 0.0
        with torch.no_grad():
            rollout, sampled, precomputed = self._sample(step, tasks)
            greedy_rewards = None
            if self.config.objective.needs_greedy:
                rollout, greedy_rewards = self._greedy_rewards(step, rollout)
        weights = self.mdp.reward.weights
        rollout_end = time.perf_counter()
        learned = normalize_components(rollout, weights) if self.config.rollout.per_component else rollout
        buffer = self.learner.prepare(learned, greedy_rewards=greedy_rewards, precomputed=precomputed)
        times = {
            "time/rollout": rollout_end - start,
            "time/prepare": time.perf_counter() - rollout_end,
            "time/update": 0.0,
            "time/reward": self.env.reward_seconds,  # a part of time/rollout
        }
        # Dynamic sampling selects groups, which are a biased sample: metrics describe everything that was sampled.
        everything = rollout if len(sampled) == 1 else join(sampled)
        buffer.component_means = {name: float(v.nanmean()) for name, v in everything.components.items()}
        failures = self._pop_failures()
        self._check_rewards(step, rollout, failures)
        logged = logged_metrics(self.mdp.reward)
        metrics = self._metrics(rollout, everything, buffer, weights) | logged | failures | times
        return Experience(buffer, metrics | {"rollout/draws": float(len(sampled))}, samples_of(rollout))

    def _metrics(
        self, rollout: Rollout, everything: Rollout, buffer: UpdateBuffer, weights: Mapping[str, float]
    ) -> dict[str, float]:
        """Return rollout/, reward/ and train/ metrics."""
        metrics = rollout_metrics(everything) | kl_metric(rollout, buffer.batch.ref_logprobs)
        metrics |= rollout_diagnostics(everything, self.mdp, self.gold)
        if self.config.on_bad_record == "drop":
            metrics["rollout/dropped_records"] = float(getattr(self.mdp.source, "dropped", 0))
        if self.config.objective.kl.target > 0:
            metrics["train/kl_coef"] = self.learner.state.kl_coef  # beta of this step's updates
        return metrics | {f"reward/{name}/weight": weights[name] for name in self.mdp.reward.scheduled}

    def _sample(
        self, step: int, tasks: Sequence[Task]
    ) -> tuple[Rollout, list[Rollout], dict[str, Tensor | None] | None]:
        """Return the rollout to learn from, everything that was sampled, and precomputed log-probs of the rollout."""
        group_size = self.config.rollout.group_size
        settings = self._sampling_settings(step)
        if self.config.objective.filter.dynamic_sampling:
            # The groups to learn from are known only after scoring, so nothing can be precomputed meanwhile.
            first = collect(self.env, self.sampler, tasks, group_size=group_size, **settings)

            def sample_again() -> Rollout:
                tasks = self.tasks.next(self.config.rollout.prompts)
                return collect(self.env, self.sampler, tasks, group_size=group_size, **settings)

            rollout, sampled = resample_groups(sample_again, first, max_draws=self.config.rollout.max_draws)
            return rollout, sampled, None
        results: list[dict[str, Tensor | None]] = []

        # Called while worker processes score the rewards; not called without one, and `prepare` computes them then.
        def precompute(tokens: Tensor, lengths: Tensor, mask: Tensor) -> None:
            results.append(self.learner.precompute_logprobs(tokens, lengths, mask))

        rollout = collect(self.env, self.sampler, tasks, group_size=group_size, while_scoring=precompute, **settings)
        return rollout, [rollout], results[0] if results else None

    def _greedy_rewards(self, step: int, rollout: Rollout) -> tuple[Rollout, Tensor]:
        """Return the rollout and, per row, the reward of a greedy completion of its prompt (ReMax), float [N].

        Rows whose greedy completion could not be scored become invalid: they have no baseline.
        """
        group_size = self.config.rollout.group_size
        tasks = rollout.tasks[::group_size]
        env = TokenVectorEnv(self.mdp, self.config.rollout.prompts)
        greedy = collect(env, self.sampler, tasks, group_size=1, greedy=True, **self._sampling_settings(step))
        rewards = greedy.returns.repeat_interleave(group_size)
        return replace(rollout, valid=rollout.valid & rewards.isfinite()), rewards.nan_to_num()

    def _sampling_settings(self, step: int) -> dict[str, Any]:
        return {
            "sampling": self.config.rollout.sampling,
            "generator": self.rng.sampler,
            "seed": self.rng.episode_seed(step),
        }

    def _check_rewards(self, step: int, rollout: Rollout, failures: dict[str, float]) -> None:
        """Count a step without a valid reward. Raises RewardError when there are too many in a row."""
        if bool(rollout.valid.any()):
            self.failures.record_success("reward")
            return
        reasons = ", ".join(f"{name.removeprefix('reward/')}: {count:.0f}" for name, count in failures.items())
        self.warn(self.failures.record_step_without_reward(step + 1, reasons))

    def _pop_failures(self) -> dict[str, float]:
        """Return reward/NAME/KIND: how often a component failed, in which way, since the last call."""
        counts = self.mdp.reward.pop_failures()
        return {f"reward/{name}/{kind}": float(n) for name, kinds in counts.items() for kind, n in kinds.items() if n}
