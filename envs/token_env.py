"""One episode, one token per step: the slow and simple view, and the reference for `TokenVectorEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlalign.envs.episode import Episode
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.types import IntArray, Split, Task

Observation = dict[str, Any]


def observation_space(mdp: TextMDP) -> spaces.Dict:
    """Return Dict(tokens: int64 [L] right-padded with the pad id, length: 0..L)."""
    tokens = spaces.Box(0, mdp.tokenizer.vocab_size - 1, (mdp.max_context,), np.int64)
    return spaces.Dict({"tokens": tokens, "length": spaces.Discrete(mdp.max_context + 1)})


def draw_task(mdp: TextMDP, split: Split, rng: np.random.Generator) -> Task:
    """Return a uniformly drawn task of a split; of an unbounded split, one of the first 2^31.

    Raises:
        UserError: the split is empty.
    """
    size = mdp.source.size(split)
    if size == 0:
        raise UserError(f"{mdp.id}: expected {split} tasks, got none; use another split or a larger source")
    return mdp.source.get(split, int(rng.integers(2**31 if size is None else size)))


class TokenEnv(gym.Env[Observation, np.int64]):
    """A text MDP as a Gymnasium environment: one episode, one token per step.

    An observation is `{"tokens": int64 [L], "length": int}`: the context, right-padded with the pad id, and its length
    without padding. L is `mdp.max_context`. An action is a token id in 0..V-1.

    The reward of a turn or an episode comes with its last token; it is NaN if it failed. The info of a step has
    `turn_ended`, `reward_valid`, `reward_components` (name -> unweighted value, of the components scored in this step)
    and, with token-scope rewards, `token_rewards` (the reward of each token of the turn; their sum is part of the
    reward).

    Args:
        mdp: the environment.
        split: the split that `reset` draws from.
        render_mode: "ansi" makes `render` return the context as text; None: no rendering.

    Attributes:
        mdp: the environment.
        split: the split that `reset` draws from.
        context: ids of the context, without padding.
        action_mask: a bool per id of the context, true if the policy generated it.

    Raises:
        UserError: the reward has group scope, which needs several episodes.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, mdp: TextMDP, *, split: Split = "train", render_mode: str | None = None) -> None:
        names = [name for name, scope in mdp.reward.scopes.items() if scope == "group"]
        if names:
            raise UserError(
                f"TokenEnv has a single episode: expected no reward of scope 'group', got '{names[0]}'; leave it out"
            )
        self.mdp = mdp
        self.split: Split = split
        self.render_mode = render_mode
        self.observation_space = observation_space(mdp)
        self.action_space = spaces.Discrete(mdp.tokenizer.vocab_size)
        self.context: list[int] = []
        self.action_mask: list[bool] = []
        self._turn: list[int] = []
        self._episode: Episode | None = None
        self._resets = 0  # since the last seed; part of the entropy of an episode's generator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. The context is the prompt.

        Args:
            seed: seeds the drawing of tasks and the episodes' generators; None: continue the current sequence.
            options: `{"task": Task}` begins that task; otherwise a task of `split` is drawn.

        Returns:
            The observation, and the info with `split` and `index` of the task.

        Raises:
            UserError: an option is unknown, the split is empty, or the prompt has no ids or too many.
        """
        super().reset(seed=seed)
        self._resets = 0 if seed is not None else self._resets + 1
        options = options or {}
        if unknown := options.keys() - {"task"}:
            raise UserError(f"unknown reset option: expected 'task', got '{min(unknown)}'")
        task = options.get("task") or draw_task(self.mdp, self.split, self.np_random)
        self._episode = self.mdp.begin(task, self.np_random_seed or 0, self._resets)
        self.context = self.mdp.prompt_ids(task)
        self.action_mask = [False] * len(self.context)
        self._turn = []
        return self._observation(), {"split": task.split, "index": task.index}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token. At the end of a turn, append the environment message and score the turn.

        Args:
            action: a token id in 0..V-1.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
            gymnasium.error.InvalidAction: the action is not a token id.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("expected a running episode: it is over or has not begun; use reset()")
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(
                f"expected a token id from 0 to {self.mdp.tokenizer.vocab_size - 1}, got {action!r}"
            )
        token = int(action)
        self.context.append(token)
        self.action_mask.append(True)
        self._turn.append(token)
        stopped = token in self.mdp.stop_ids
        episode = self._episode
        if not stopped and len(self._turn) < self.mdp.turn_limit(episode.task):
            return self._observation(), 0.0, False, False, {"turn_ended": False, "reward_valid": True}

        end = self.mdp.end_turn(episode, self._turn, stopped)
        self.context.extend(end.reply)
        self.action_mask.extend([False] * len(end.reply))
        self._turn = []
        over = end.terminated or end.truncated
        if over:
            self._episode = None
        scores = self.mdp.score([episode], [over])
        info: dict[str, Any] = {"turn_ended": True, "reward_valid": bool(scores.valid[0])}
        # NaN marks a component that was not scored in this step.
        components = {name: float(values[0]) for name, values in scores.components.items() if not np.isnan(values[0])}
        if components:
            info["reward_components"] = components
        if scores.token_rewards is not None:
            info["token_rewards"] = np.array(scores.token_rewards[0])
        return self._observation(), float(scores.total[0]), end.terminated, end.truncated, info

    def render(self) -> Any:
        """Return the context as text, or None without a render mode."""
        return self.mdp.tokenizer.decode(self.context) if self.render_mode == "ansi" else None

    def _observation(self) -> Observation:
        tokens: IntArray = np.full(self.mdp.max_context, self.mdp.tokenizer.pad_id, np.int64)
        tokens[: len(self.context)] = self.context
        return {"tokens": tokens, "length": np.int64(len(self.context))}
