"""One episode, one token a step: the slow and obvious view, and the reference for the fast one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlalign.envs.mdp import Episode, TextMDP
from rlalign.errors import UserError
from rlalign.types import IntArray, Split, Task

Observation = dict[str, Any]


def observation_space(mdp: TextMDP) -> spaces.Dict:
    """Dict(tokens: int64 [L] right-padded with the pad id, length: 0..L)."""
    tokens = spaces.Box(0, mdp.tokenizer.vocab_size - 1, (mdp.max_context,), np.int64)
    return spaces.Dict({"tokens": tokens, "length": spaces.Discrete(mdp.max_context + 1)})


def draw_task(mdp: TextMDP, split: Split, rng: np.random.Generator) -> Task:
    """A task of a split, uniformly (of the first 2^31 where it is unbounded). Raises UserError when it is empty."""
    size = mdp.source.size(split)
    if size == 0:
        raise UserError(f"{mdp.id} has no {split} tasks")
    return mdp.source.get(split, int(rng.integers(2**31 if size is None else size)))


class TokenEnv(gym.Env[Observation, np.int64]):
    """A text MDP as a Gymnasium environment.

    `reset(options={"task": Task})` begins a given task, otherwise one of `split` is drawn. The reward of a turn or an
    episode comes with its last token, NaN when it failed. Info of a step: `turn_ended`, `reward_valid`,
    `reward_components` (name -> unweighted value, of what was scored now) and, where there are token-scope rewards,
    `token_rewards` (what each token of the turn earned; its sum is in the reward).

    Args:
        mdp: the environment proper. Raises UserError when its reward has group scope, which needs several episodes.
        split: where tasks are drawn from.
        render_mode: "ansi" returns the context as text.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, mdp: TextMDP, *, split: Split = "train", render_mode: str | None = None) -> None:
        if mdp.reward is not None and "group" in mdp.reward.scopes.values():
            names = [name for name, scope in mdp.reward.scopes.items() if scope == "group"]
            raise UserError(f"reward '{names[0]}' compares a group of episodes: one TokenEnv has one, leave it out")
        self.mdp, self.split, self.render_mode = mdp, split, render_mode
        self.observation_space = observation_space(mdp)
        self.action_space = spaces.Discrete(mdp.tokenizer.vocab_size)
        self.context: list[int] = []
        self.action_mask: list[bool] = []
        self._turn: list[int] = []
        self._episode: Episode | None = None
        self._count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the context is the prompt."""
        super().reset(seed=seed)
        self._count = 0 if seed is not None else self._count + 1
        if unknown := set(options or {}) - {"task"}:
            raise UserError(f"unknown reset option '{min(unknown)}', there is 'task'")
        task = (options or {}).get("task") or draw_task(self.mdp, self.split, self.np_random)
        self._episode = self.mdp.begin(task, self.np_random_seed or 0, self._count)
        self.context = self.mdp.prompt_ids(task)
        self.action_mask = [False] * len(self.context)
        self._turn = []
        return self._observation(), {"split": task.split, "index": task.index}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Say one token."""
        if self._episode is None:
            raise gym.error.ResetNeeded("the episode is over or has not begun: call reset()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(
                f"{action!r} is no token id: there are 0..{self.mdp.tokenizer.vocab_size - 1}"
            )
        token = int(action)
        self.context.append(token)
        self.action_mask.append(True)
        self._turn.append(token)
        stopped = token in self.mdp.stop_ids
        if not stopped and len(self._turn) < self.mdp.max_new:
            return self._observation(), 0.0, False, False, {"turn_ended": False, "reward_valid": True}

        episode = self._episode
        end = self.mdp.end_turn(episode, self._turn, stopped)
        self.context.extend(end.reply)
        self.action_mask.extend([False] * len(end.reply))
        self._turn = []
        over = end.terminated or end.truncated
        if over:
            self._episode = None
        scores = self.mdp.score([episode], [over])
        info: dict[str, Any] = {"turn_ended": True, "reward_valid": bool(scores.valid[0])}
        if scored := {k: float(v[0]) for k, v in scores.components.items() if not np.isnan(v[0])}:
            info["reward_components"] = scored
        if scores.token_rewards is not None:
            info["token_rewards"] = np.array(scores.token_rewards[0])
        return self._observation(), float(scores.total[0]), end.terminated, end.truncated, info

    def render(self) -> Any:
        """The context as text."""
        return self.mdp.tokenizer.decode(self.context) if self.render_mode == "ansi" else None

    def _observation(self) -> Observation:
        tokens: IntArray = np.full(self.mdp.max_context, self.mdp.tokenizer.pad_id, np.int64)
        tokens[: len(self.context)] = self.context
        return {"tokens": tokens, "length": np.int64(len(self.context))}
