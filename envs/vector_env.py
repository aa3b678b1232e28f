"""B episodes in lockstep, a token column or whole segments at a time: the view that training uses.

Nothing here loops over tokens. Per turn and row there is Python: decoding, the environment's reply, the reward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from rlalign.envs.mdp import Episode, TextMDP
from rlalign.envs.token_env import Observation, draw_task, observation_space
from rlalign.errors import UserError
from rlalign.tokenizers import chat_text
from rlalign.types import BoolArray, FloatArray, IntArray, Scores, Segment, Split, Task


class TokenVectorEnv(VectorEnv[Observation, Any, Any]):
    """B rows of one text MDP. Rows do not reset themselves: a finished one ignores actions, with reward 0.

    `reset(options={"tasks": [...]})` begins given tasks, one a row, or with `{"reset_mask": bool [B]}` one a row of
    the mask; otherwise tasks of `split` are drawn. Rows of one task begin in one state. Row i equals
    `TokenEnv.reset(seed=seed, options={"task": tasks[i]})`.

    Attributes:
        tokens: int64 [B, L], contexts right-padded with the pad id.
        lengths: int64 [B], their true lengths.
        action_mask: bool [B, L], true where the policy chose the token.
        done, terminated, truncated: bool [B]; all done before the first reset.
        episodes: B episodes.
        reward_seconds: spent on scoring since somebody set it to 0.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, mdp: TextMDP, num_envs: int = 1, *, split: Split = "train") -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}, it must be positive")
        self.mdp, self.num_envs, self.split = mdp, num_envs, split
        self.single_observation_space = observation_space(mdp)
        self.single_action_space = spaces.Discrete(mdp.tokenizer.vocab_size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.tokens: IntArray = np.full((num_envs, mdp.max_context), mdp.tokenizer.pad_id, np.int64)
        self.lengths: IntArray = np.zeros(num_envs, np.int64)
        self.action_mask: BoolArray = np.zeros(self.tokens.shape, np.bool_)
        self.done: BoolArray = np.ones(num_envs, np.bool_)
        self.terminated: BoolArray = np.zeros(num_envs, np.bool_)
        self.truncated: BoolArray = np.zeros(num_envs, np.bool_)
        self.episodes: list[Episode] = [Episode(Task("")) for _ in range(num_envs)]
        self.reward_seconds = 0.0
        self._turn_start: IntArray = np.zeros(num_envs, np.int64)
        self._budget: IntArray = np.zeros(num_envs, np.int64)
        self._stops: BoolArray = np.zeros(mdp.tokenizer.vocab_size, np.bool_)
        self._stops[sorted(mdp.stop_ids)] = True
        self._count = 0

    # ---- Gymnasium ----

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every row, or in the rows of `reset_mask`."""
        if seed is not None and not isinstance(seed, int | np.integer):
            raise UserError("one seed serves all rows: give an int")
        super().reset(seed=None if seed is None else int(seed))
        self._count = 0 if seed is not None else self._count + 1
        given = dict(options or {})
        tasks, mask = given.pop("tasks", None), given.pop("reset_mask", None)
        if given:
            raise UserError(f"unknown reset option '{min(given)}', there are 'tasks' and 'reset_mask'")
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(np.asarray(mask))
        if tasks is None:
            tasks = [draw_task(self.mdp, self.split, self.np_random) for _ in rows]
        if len(tasks) != len(rows):
            raise UserError(f"{len(tasks)} tasks for {len(rows)} rows: give one a row")
        seed_used, prompts = self.np_random_seed or 0, {}
        self.tokens[rows] = self.mdp.tokenizer.pad_id
        self.action_mask[rows] = False
        for row, task in zip(rows.tolist(), tasks, strict=True):
            if id(task) not in prompts:  # a group repeats its task
                prompts[id(task)] = self.mdp.prompt_ids(task)
            ids = prompts[id(task)]
            self.tokens[row, : len(ids)] = ids
            self.lengths[row] = len(ids)
            self.episodes[row] = self.mdp.begin(task, seed_used, self._count)
        self._turn_start[rows] = self.lengths[rows]
        self._budget[rows] = self.mdp.max_new
        self.done[rows] = self.terminated[rows] = self.truncated[rows] = False
        fresh = np.isin(np.arange(self.num_envs), rows)
        index = np.array([episode.task.index for episode in self.episodes], np.int64)
        return self._observation(), {"index": index, "_index": fresh}

    def step(self, actions: ArrayLike) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """One token a row. Finished rows keep their `terminated` or `truncated`; their actions are ignored."""
        column = np.asarray(actions, np.int64).reshape(self.num_envs, 1)
        segment = self.step_tokens(column, np.ones(self.num_envs, np.int64))
        components: dict[str, Any] = {}
        for name, value in segment.components.items():
            components |= {name: value, f"_{name}": ~np.isnan(value)}
        info = {
            "turn_ended": segment.turn_ended,
            "reward_valid": segment.valid,
            "reward_components": components,
            "_reward_components": segment.turn_ended.copy(),
        }
        return self._observation(), segment.rewards[:, 0], self.terminated.copy(), self.truncated.copy(), info

    # ---- the option view ----

    def step_tokens(
        self, tokens: ArrayLike, lengths: ArrayLike, *, while_scoring: Callable[[], object] | None = None
    ) -> Segment:
        """Give each row up to `lengths[i]` tokens of `tokens[i]`; it takes them until its turn ends.

        Equal to folding `step` over the columns, but for one thing: token-scope rewards are known when the turn ends,
        so they stand on their own tokens within this segment, and those of earlier segments are paid on the last.

        Args:
            tokens: int [B, T], T >= 1.
            lengths: int [B], 0..T; 0 leaves a row alone.
            while_scoring: called once if this ends the last episodes and their rewards run in processes of their own:
                contexts are complete then, and scores are under way.

        Raises UserError for a wrong shape or an id outside the vocabulary.
        """
        given, asked = np.asarray(tokens, np.int64), np.asarray(lengths, np.int64)
        if given.ndim != 2 or given.shape[0] != self.num_envs or not given.shape[1]:
            raise UserError(f"tokens have shape {given.shape}, expected [{self.num_envs}, T] with T >= 1")
        width = given.shape[1]
        if asked.shape != (self.num_envs,) or asked.min() < 0 or asked.max() > width:
            raise UserError(f"lengths must be {self.num_envs} numbers from 0 to {width}")

        limit = np.minimum(asked, self._budget)  # the budget of a finished row is 0
        column = np.arange(width)
        offered = column < limit[:, None]
        ids = given[offered]
        if ids.size and (ids.min() < 0 or ids.max() >= len(self._stops)):
            raise UserError(f"a token id lies outside the vocabulary 0..{len(self._stops) - 1}")
        stop = np.zeros(given.shape, np.bool_)
        stop[offered] = self._stops[ids]
        first = stop.argmax(axis=1)
        stopped: BoolArray = stop[np.arange(self.num_envs), first]
        consumed: IntArray = np.where(stopped, first + 1, limit)

        row, at = np.nonzero(column < consumed[:, None])
        place = self.lengths[row] + at
        self.tokens[row, place] = given[row, at]
        self.action_mask[row, place] = True
        self.lengths += consumed
        self._budget -= consumed
        ended = stopped | ((consumed > 0) & (self._budget == 0))
        return self._end_turns(ended, stopped, consumed, width, while_scoring)

    def contexts(self, rows: Iterable[int]) -> list[list[int]]:
        """Ids of the contexts of some rows."""
        return [self.tokens[i, : self.lengths[i]].tolist() for i in rows]

    def budget(self, rows: ArrayLike | None = None) -> IntArray:
        """int64 [rows], tokens left in the present turn of some rows (default: all); 0 when finished."""
        return self._budget.copy() if rows is None else self._budget[np.asarray(rows, np.int64)]

    def prompt_texts(self) -> list[str]:
        """B prompts as texts, messages in lines."""
        return [chat_text(e.task.prompt) for e in self.episodes]

    def completion_texts(self) -> list[str]:
        """B completions: the finished turns, joined by newlines."""
        return ["\n".join(e.texts) for e in self.episodes]

    def episode_columns(self) -> tuple[list[Any], list[str], list[list[int]], dict[str, list[Any]]]:
        """Prompts, completions, completion ids and columns of all rows, as an episode's rewards get them."""
        return *self.mdp.texts(self.episodes), self.mdp.columns(self.episodes)

    def _end_turns(
        self,
        ended: BoolArray,
        stopped: BoolArray,
        consumed: IntArray,
        width: int,
        while_scoring: Callable[[], object] | None,
    ) -> Segment:
        """Ask for replies, score, and say what happened."""
        count = self.num_envs
        rewards, valid = np.zeros((count, width)), np.ones(count, np.bool_)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        replies: list[tuple[int, ...]] = [()] * count
        rows = np.flatnonzero(ended).tolist()
        for i in rows:
            turn = self.tokens[i, self._turn_start[i] : self.lengths[i]].tolist()
            end = self.mdp.end_turn(self.episodes[i], turn, bool(stopped[i]))
            terminated[i], truncated[i], replies[i] = end.terminated, end.truncated, end.reply
            after = self.lengths[i] + len(end.reply)
            self.tokens[i, self.lengths[i] : after] = end.reply
            self.lengths[i] = self._turn_start[i] = after
        over = terminated | truncated
        self._budget[ended] = np.where(over[ended], 0, self.mdp.max_new)
        self.done |= over
        self.terminated |= terminated
        self.truncated |= truncated

        settling = [self.episodes[i] for i in rows], over[rows].tolist()
        out_of_process = getattr(self.mdp.reward, "out_of_process", False)  # a user's own Reward need not know of it
        if while_scoring is not None and self.done.all() and out_of_process:
            # the rewards are waited for here, where Ctrl-C arrives: it kills what runs in their processes
            with ThreadPoolExecutor(1) as thread:
                under_way = thread.submit(while_scoring)
                scores = self._settle(*settling)
            under_way.result()
        else:
            scores = self._settle(*settling)
        valid[rows] = scores.valid
        components = {name: np.full(count, np.nan) for name in scores.components}
        for name, value in scores.components.items():
            components[name][rows] = value
        last = consumed[rows] - 1
        rewards[rows, last] = scores.total
        for i, spread, total in zip(rows, scores.token_rewards or [], scores.total, strict=False):
            if not np.isnan(total):
                now = np.asarray(spread, np.float64)[-consumed[i] :]
                rewards[i, : consumed[i]] = now
                rewards[i, consumed[i] - 1] += total - now.sum()
        return Segment(consumed, replies, rewards, valid, components, ended, terminated, truncated)

    def _settle(self, episodes: list[Episode], over: list[bool]) -> Scores:
        began = time.perf_counter()
        scores = self.mdp.score(episodes, over)
        self.reward_seconds += time.perf_counter() - began
        return scores

    def _observation(self) -> Observation:
        return {"tokens": self.tokens.copy(), "length": self.lengths.copy()}
