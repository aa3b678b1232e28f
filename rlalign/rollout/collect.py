"""Collection of rollouts: the sampler generates, the environment responds, until every episode has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.objective.last_action import on_last_action
from rlalign.policies.sampling.sampler import CachedPrefix, Sampler
from rlalign.types import Sampling, Task


@dataclass(frozen=True, slots=True)
class Rollout:
    """N trajectories over L columns, on the CPU. The entry at column t belongs to the token at column t.

    Attributes:
        tokens: int64 [N, L], contexts right-padded: prompt, turns and environment messages as the policy read them.
        lengths: int64 [N].
        action_mask: bool [N, L], true where the policy chose the token.
        sampler_logprobs: float32 [N, L], of the sampling distribution; 0 off the mask. None: they were not recorded.
        rewards: float32 [N, L]; 0 where `valid` is false.
        valid: bool [N], false where a reward failed.
        components: name -> float64 [N], unweighted, summed over the episode; NaN where one failed or did not apply.
        group_ids: int64 [N], equal for samples of one prompt.
        terminated: bool [N], EOS or the environment ended the episode.
        truncated: bool [N], a limit ended the episode.
        tasks: N tasks.
        prompts: N texts.
        completions: N texts, the policy's turns of each episode, joined by line breaks.
        messages: N whole trajectories, prompt, turns and environment messages with their roles (see
            `rlalign.envs.episode.Episode.messages`).
        extra: N dictionaries of the values that rewards logged besides (TRL's `log_extra`).
    """

    tokens: Tensor
    lengths: Tensor
    action_mask: Tensor
    sampler_logprobs: Tensor | None
    rewards: Tensor
    valid: Tensor
    components: dict[str, Tensor]
    group_ids: Tensor
    terminated: Tensor
    truncated: Tensor
    tasks: list[Task]
    prompts: list[str]
    completions: list[str]
    messages: list[list[dict[str, str]]]
    extra: list[dict[str, Any]]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def returns(self) -> Tensor:
        """Return the sum of each episode's rewards, float32 [N]; NaN where one failed."""
        total = self.rewards.sum(1)
        return torch.where(self.valid, total, torch.full_like(total, torch.nan))

    @property
    def num_actions(self) -> Tensor:
        """Return the number of tokens that the policy chose, int64 [N]."""
        return self.action_mask.sum(1)


def collect(
    env: TokenVectorEnv,
    sampler: Sampler,
    tasks: Sequence[Task],
    *,
    group_size: int,
    sampling: Sampling,
    generator: torch.Generator,
    seed: int,
    greedy: bool = False,
    while_scoring: Callable[[Tensor, Tensor, Tensor], object] | None = None,
) -> Rollout:
    """Run each task `group_size` times to the end of its episode.

    Args:
        env: a vector environment of len(tasks) · group_size rows.
        sampler: continues contexts; reads each group's prompt once.
        tasks: initial states.
        group_size: samples of each task; they start from the same state.
        sampling: the distribution to sample from.
        generator: of the sampler, on the sampler's device.
        seed: of the environment's own randomness.
        greedy: take the most probable token instead (baselines and deterministic evaluation).
        while_scoring: called with the rollout's `tokens`, `lengths` and `action_mask` while rewards in worker processes
            score it. Not called when no reward runs in a worker process.

    Returns:
        N = len(tasks) · group_size trajectories; the samples of a task are neighbors.

    Example:
        >>> from rlalign.envs.registration import make_mdp
        >>> from rlalign.policies.factory import make_policy, make_sampler
        >>> mdp = make_mdp("reverse")
        >>> policy = make_policy("gru", tokenizer=mdp.tokenizer)
        >>> rollout = collect(
        ...     TokenVectorEnv(mdp, 4),
        ...     make_sampler("decode", policy),
        ...     [mdp.source.get("train", index) for index in range(2)],
        ...     group_size=2,
        ...     sampling=Sampling(),
        ...     generator=torch.Generator().manual_seed(0),
        ...     seed=0,
        ... )
        >>> len(rollout), rollout.group_ids.tolist()
        (4, [0, 0, 1, 1])
    """
    n = len(tasks) * group_size
    group_tasks = [task for task in tasks for _ in range(group_size)]
    env.reset(seed=seed, options={"tasks": group_tasks})
    logprobs = np.zeros(env.tokens.shape, np.float32)
    rewards = np.zeros(env.tokens.shape, np.float64)
    valid = np.ones(n, np.bool_)
    components: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    terminated = np.zeros(n, np.bool_)
    truncated = np.zeros(n, np.bool_)
    # Episodes of several turns continue from the cached keys and values of their last turn.
    cached: list[CachedPrefix | None] | None = [None] * n if env.mdp.max_turns > 1 else None

    while (active := np.flatnonzero(~env.done)).size:
        samples = sampler.sample(
            env.contexts(active),
            max_new=env.budget(active).tolist(),
            stop_ids=env.mdp.stop_ids,
            sampling=sampling,
            generator=generator,
            greedy=greedy,
            cached=None if cached is None else [cached[i] for i in active],
        )
        if cached is not None and samples.cached is not None:
            for i, prefix in zip(active, samples.cached, strict=True):
                cached[i] = prefix
        width = samples.tokens.shape[1]
        tokens = np.zeros((n, width), np.int64)
        lengths = np.zeros(n, np.int64)
        tokens[active] = samples.tokens.numpy()
        lengths[active] = samples.lengths.numpy()
        starts = env.lengths.copy()  # where this turn begins in each row
        segment = env.step_tokens(
            tokens, lengths, while_scoring=None if while_scoring is None else lambda: while_scoring(*_layout(env))
        )
        if (segment.consumed != lengths).any():
            raise AssertionError("the sampler generated past the end of a turn")

        turn_logprobs = np.zeros((n, width), np.float32)
        turn_logprobs[active] = samples.logprobs.numpy()
        inside = np.arange(width) < lengths[:, None]
        row, column = np.nonzero(inside)  # scatter the turn's entries to their columns in the whole context
        logprobs[row, starts[row] + column] = turn_logprobs[inside]
        rewards[row, starts[row] + column] = segment.rewards[inside]
        valid &= segment.valid
        terminated |= segment.terminated
        truncated |= segment.truncated
        for name, value in segment.components.items():
            _add(components, name, value)

    group_ids = np.repeat(np.arange(len(tasks)), group_size)
    start = time.perf_counter()
    _add_group_rewards(env, group_ids, rewards, valid, components)
    env.reward_seconds += time.perf_counter() - start
    rewards[~valid] = 0.0
    contexts, ends, action_mask = _layout(env)
    width = contexts.shape[1]
    return Rollout(
        tokens=contexts,
        lengths=ends,
        action_mask=action_mask,
        sampler_logprobs=torch.from_numpy(logprobs[:, :width].copy()),
        rewards=torch.from_numpy(rewards[:, :width].astype(np.float32)),
        valid=torch.from_numpy(valid),
        components={k: torch.from_numpy(v) for k, v in components.items()},
        group_ids=torch.from_numpy(group_ids),
        terminated=torch.from_numpy(terminated),
        truncated=torch.from_numpy(truncated),
        tasks=group_tasks,
        prompts=env.prompt_texts(),
        completions=env.completion_texts(),
        messages=env.messages(),
        extra=[episode.extra for episode in env.episodes],
    )


def _layout(env: TokenVectorEnv) -> tuple[Tensor, Tensor, Tensor]:
    """Return copies of the contexts [N, L], their lengths [N] and the action mask [N, L]."""
    width = int(env.lengths.max())
    tokens = env.tokens[:, :width].astype(np.int64)
    mask = env.action_mask[:, :width].copy()
    return torch.from_numpy(tokens), torch.from_numpy(env.lengths.astype(np.int64)), torch.from_numpy(mask)


def _add_group_rewards(
    env: TokenVectorEnv, group_ids: Any, rewards: Any, valid: Any, components: dict[str, Any]
) -> None:
    """Add the rewards of group scope, in place, on the last action of each row.

    They compare several trajectories, so they are not part of the MDP and are computed here.
    """
    if "group" not in env.mdp.reward.scopes.values():
        return
    scores = env.mdp.score_groups(env.episodes, group_ids.tolist())
    totals = torch.from_numpy(np.where(scores.valid, scores.total, 0.0))
    rewards += on_last_action(totals, torch.from_numpy(env.action_mask)).numpy()
    valid &= scores.valid
    for name, value in scores.components.items():
        if not np.isnan(value).all():
            _add(components, name, value)


def _add(components: dict[str, Any], name: str, value: Any) -> None:
    """Add a component of one turn to its sum over the episode; NaN means that it was not scored in this turn."""
    old = components.get(name)
    if old is None:
        components[name] = value.copy()
    else:
        components[name] = np.where(np.isnan(old), value, np.where(np.isnan(value), old, old + value))
