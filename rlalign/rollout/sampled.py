"""Rollouts that the policy samples: the next tasks, their completions, and the rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.stream import task_stream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.policies.sampling.sampler import Sampler
from rlalign.rollout.collect import Rollout, collect
from rlalign.rollout.dynamic_sampling import join, resample_groups
from rlalign.rollout.source import Drawn
from rlalign.rollout.task_results import task_results
from rlalign.types import Task

Precompute = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor | None]]


class SampledRollouts:
    """A source of rollouts that a policy samples (`rlalign.rollout.source.RolloutSource`).

    Args:
        config: prompts per step, group size, sampling distribution, and what the objective needs.
        mdp: the environment, bound to the policy's tokenizer.
        sampler: of the policy.
        generator: of the sampler, on its device.
        task_seed: of the order of tasks.
        episode_seed: step -> seed of the environment's own randomness.
        precompute: returns the fields of the batch that models compute from tokens, lengths and mask. It is called
            while worker processes score the rewards.
    """

    def __init__(
        self,
        config: TrainConfig,
        mdp: TextMDP,
        sampler: Sampler,
        *,
        generator: torch.Generator,
        task_seed: int,
        episode_seed: Callable[[int], int],
        precompute: Precompute,
    ) -> None:
        self.config = config
        self.mdp = mdp
        self.sampler = sampler
        self.tasks = task_stream(mdp, seed=task_seed, options=config.tasks)
        self.env = TokenVectorEnv(mdp, config.samples_per_step)
        self._generator = generator
        self._episode_seed = episode_seed
        self._precompute = precompute

    def draw(self, step: int) -> Drawn:
        """Sample the next tasks and score them.

        Args:
            step: the step, from 0.

        Raises:
            RewardError: a reward failed.
        """
        tasks = self.tasks.next(self.config.rollout.prompts, step)
        self.env.reward_seconds = 0.0
        with torch.no_grad():
            rollout, sampled, precomputed = self._sample(step, tasks)
            greedy_rewards = None
            if self.config.objective.needs_greedy:
                rollout, greedy_rewards = self._greedy_rewards(step, rollout)
        # Dynamic sampling selects groups, which are a biased sample: metrics describe everything that was sampled.
        everything = rollout if len(sampled) == 1 else join(sampled)
        if self.tasks.reads_results:
            self.tasks.update(task_results(everything, self.mdp, self.config.tasks.success))
        return Drawn(
            rollout,
            everything,
            draws=len(sampled),
            precomputed=precomputed,
            greedy_rewards=greedy_rewards,
            order=self.tasks.metrics(),
            reward_seconds=self.env.reward_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the tasks."""
        return self.tasks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position.

        Raises:
            FaultError: the state belongs to other tasks.
        """
        self.tasks.load_state_dict(state)

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
                tasks = self.tasks.next(self.config.rollout.prompts, step)
                return collect(self.env, self.sampler, tasks, group_size=group_size, **settings)

            rollout, sampled = resample_groups(sample_again, first, max_draws=self.config.rollout.max_draws)
            return rollout, sampled, None
        results: list[dict[str, Tensor | None]] = []

        # Called while worker processes score the rewards; not called without one, and `prepare` computes them then.
        def precompute(tokens: Tensor, lengths: Tensor, mask: Tensor) -> None:
            results.append(self._precompute(tokens, lengths, mask))

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
            "generator": self._generator,
            "seed": self._episode_seed(step),
        }
