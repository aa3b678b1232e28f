"""B episodes in lockstep, one token column or whole segments at a time: the view that training uses.

No Python loop runs over tokens. Per turn and row there is Python code: decoding, the environment message, the reward.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from rlalign.envs.episode import Episode, TurnEnd
from rlalign.envs.initial_context import place_of
from rlalign.envs.mdp import TextMDP
from rlalign.envs.token_env import Observation, draw_task, observation_space
from rlalign.errors import UserError
from rlalign.tokenizers import chat_text
from rlalign.typecheck import check_range
from rlalign.types import BoolArray, FloatArray, IntArray, Scores, Segment, Split, Task


class TokenVectorEnv(VectorEnv[Observation, Any, Any]):
    """B rows of one text MDP as a Gymnasium vector environment, the view that training uses.

    There is no autoreset: a finished row ignores actions and has reward 0. Rows of one task begin in the same state.
    Row i equals a `TokenEnv` after `reset(seed=seed, options={"task": tasks[i]})`. `step` takes one token per row,
    `step_tokens` up to a whole turn per row.

    An observation is `{"tokens": int64 [B, L], "length": int64 [B]}`, a copy of `tokens` and `lengths`.

    Args:
        mdp: the environment.
        num_envs: B, at least 1.
        split: the split that `reset` draws from.

    Attributes:
        tokens: int64 [B, L], contexts right-padded with the pad id.
        lengths: int64 [B], their lengths without padding.
        action_mask: bool [B, L], true where the policy generated the token.
        done: bool [B], true for a row without a running episode, as all rows are before the first reset.
        terminated: bool [B], true if the row's episode terminated.
        truncated: bool [B], true if a limit ended the row's episode.
        episodes: B episodes.
        reward_seconds: wall-clock time spent on scoring, in seconds. Callers may set it to 0.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, mdp: TextMDP, num_envs: int = 1, *, split: Split = "train") -> None:
        check_range("num_envs", num_envs, least=1)
        self.mdp = mdp
        self.num_envs = num_envs
        self.split: Split = split
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
        self._turn_start: IntArray = np.zeros(num_envs, np.int64)  # column of the current turn's first token
        self._budget: IntArray = np.zeros(num_envs, np.int64)  # tokens left in the current turn
        self._limit: IntArray = np.zeros(num_envs, np.int64)  # most tokens of a turn of the row's task
        # A lookup table, so that a whole segment is searched for stop ids at once.
        self._is_stop: BoolArray = np.zeros(mdp.tokenizer.vocab_size, np.bool_)
        self._is_stop[sorted(mdp.stop_ids)] = True
        self._resets = 0  # since the last seed; part of the entropy of an episode's generator

    # ---- Gymnasium ----

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every row, or in the rows of `reset_mask`.

        Args:
            seed: one integer for all rows, which seeds the drawing of tasks and the episodes' generators; None:
                continue the current sequence.
            options: `tasks`, one per row that begins; otherwise tasks of `split` are drawn. `reset_mask`, bool [B], the
                rows that begin; otherwise all.

        Returns:
            The observation, and the info with `index`, int64 [B], the index of each row's task in its split.

        Raises:
            UserError: the seed is not an integer, an option is unknown, or the number of tasks is not that of the rows.
        """
        if seed is not None and not isinstance(seed, int | np.integer):
            raise UserError(f"seed: expected one integer for all rows, got {seed!r}")
        super().reset(seed=None if seed is None else int(seed))
        self._resets = 0 if seed is not None else self._resets + 1
        options = dict(options or {})
        tasks = options.pop("tasks", None)
        mask = options.pop("reset_mask", None)
        if options:
            raise UserError(f"unknown reset option: expected 'tasks' or 'reset_mask', got '{min(options)}'")
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(np.asarray(mask))
        if tasks is None:
            tasks = [draw_task(self.mdp, self.split, self.np_random) for _ in rows]
        if len(tasks) != len(rows):
            raise UserError(f"tasks: expected one per row, {len(rows)} in all, got {len(tasks)}")
        entropy = self.np_random_seed or 0
        self.tokens[rows] = self.mdp.tokenizer.pad_id
        self.action_mask[rows] = False
        # The rows of a group share their task object, whose prompt is encoded once.
        prompts: dict[int, list[int]] = {}
        for row, task in zip(rows.tolist(), tasks, strict=True):
            if id(task) not in prompts:
                prompts[id(task)] = self.mdp.prompt_ids(task)
            ids = prompts[id(task)]
            self.tokens[row, : len(ids)] = ids
            self.lengths[row] = len(ids)
            self.episodes[row] = self.mdp.begin(task, entropy, self._resets)
            self._limit[row] = self.mdp.turn_limit(task)
        self._turn_start[rows] = self.lengths[rows]
        self._budget[rows] = self._limit[rows]
        self.done[rows] = False
        self.terminated[rows] = False
        self.truncated[rows] = False
        index = np.array([episode.task.index for episode in self.episodes], np.int64)
        # Gymnasium's convention: `_name` marks the rows in which the entry `name` of an info is set.
        return self._observation(), {"index": index, "_index": np.isin(np.arange(self.num_envs), rows)}

    def step(self, actions: ArrayLike) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Append one token per row. Finished rows keep their `terminated` or `truncated`; their actions are ignored.

        Args:
            actions: int [B], token ids.

        Returns:
            Observation, rewards, terminated and truncated, each [B], and the info of `TokenEnv.step` as arrays [B],
            without `token_rewards`.

        Raises:
            UserError: an id is outside the vocabulary.
        """
        column = np.asarray(actions, np.int64).reshape(self.num_envs, 1)
        segment = self.step_tokens(column, np.ones(self.num_envs, np.int64))
        components: dict[str, Any] = {}
        for name, values in segment.components.items():
            components |= {name: values, f"_{name}": ~np.isnan(values)}
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
        """Append up to `lengths[i]` tokens of `tokens[i]` to each row, until its turn ends.

        Equal to folding `step` over the columns, with one exception. Token-scope rewards are known once the turn ends.
        They are put on their own tokens within this segment; those of earlier segments of the turn are added to the
        turn's last token.

        Args:
            tokens: int [B, T], T >= 1.
            lengths: int [B], 0..T; 0 leaves a row unchanged.
            while_scoring: work of the caller to overlap with rewards; the training loop precomputes log-probs in it. It
                runs once, in another thread, while worker processes score: if this segment ends the last episodes (so
                all contexts are complete), and every reward runs in a worker process. Otherwise it is not called.

        Returns:
            The consumed tokens, environment messages, rewards and ends of each row.

        Raises:
            UserError: a shape is wrong, or an id is outside the vocabulary.
        """
        tokens = np.asarray(tokens, np.int64)
        lengths = np.asarray(lengths, np.int64)
        if tokens.ndim != 2 or tokens.shape[0] != self.num_envs or not tokens.shape[1]:
            raise UserError(f"tokens: expected shape [{self.num_envs}, T] with T >= 1, got {tokens.shape}")
        width = tokens.shape[1]
        if lengths.shape != (self.num_envs,) or lengths.min() < 0 or lengths.max() > width:
            raise UserError(f"lengths: expected {self.num_envs} numbers from 0 to {width}, got {lengths.tolist()}")

        limit = np.minimum(lengths, self._budget)  # the budget of a finished row is 0
        columns = np.arange(width)
        offered = columns < limit[:, None]  # bool [B, T]: tokens that a row takes unless a stop id comes first
        ids = tokens[offered]
        if ids.size and (ids.min() < 0 or ids.max() >= len(self._is_stop)):
            raise UserError(f"tokens: expected ids from 0 to {len(self._is_stop) - 1}, got one outside the vocabulary")
        stop = np.zeros(tokens.shape, np.bool_)
        stop[offered] = self._is_stop[ids]
        # argmax gives the first True, and 0 for a row without one; the lookup tells the two apart.
        first_stop = stop.argmax(axis=1)
        stopped: BoolArray = stop[np.arange(self.num_envs), first_stop]
        consumed: IntArray = np.where(stopped, first_stop + 1, limit)

        row, column = np.nonzero(columns < consumed[:, None])
        position = self.lengths[row] + column
        self.tokens[row, position] = tokens[row, column]
        self.action_mask[row, position] = True
        self.lengths += consumed
        self._budget -= consumed
        ended = stopped | ((consumed > 0) & (self._budget == 0))
        return self._end_turns(ended, stopped, consumed, width, while_scoring)

    def contexts(self, rows: Iterable[int]) -> list[list[int]]:
        """Return the context ids of some rows, without padding."""
        return [self.tokens[i, : self.lengths[i]].tolist() for i in rows]

    def budget(self, rows: ArrayLike | None = None) -> IntArray:
        """Return int64 [rows], the tokens left in the current turn of some rows (default: all); 0 if finished."""
        return self._budget.copy() if rows is None else self._budget[np.asarray(rows, np.int64)]

    def prompt_texts(self) -> list[str]:
        """Return B prompts as texts, one message per line."""
        return [chat_text(e.task.prompt) for e in self.episodes]

    def completion_texts(self) -> list[str]:
        """Return B completions: the finished turns, joined by newlines."""
        return ["\n".join(e.texts) for e in self.episodes]

    def messages(self) -> list[list[dict[str, str]]]:
        """Return B whole trajectories as messages with roles (see `Episode.messages`)."""
        return [e.messages(self.mdp.policy_prompt(e.task)) for e in self.episodes]

    # ---- the end of a turn ----

    def _end_turns(
        self,
        ended: BoolArray,
        stopped: BoolArray,
        consumed: IntArray,
        width: int,
        while_scoring: Callable[[], object] | None,
    ) -> Segment:
        """Append environment messages to the rows whose turn `ended`, score them, and return the segment."""
        terminated: BoolArray = np.zeros(self.num_envs, np.bool_)
        truncated: BoolArray = np.zeros(self.num_envs, np.bool_)
        replies: list[tuple[int, ...]] = [()] * self.num_envs
        rows = np.flatnonzero(ended).tolist()
        failed: list[int] = []
        for i in rows:
            turn = self.tokens[i, self._turn_start[i] : self.lengths[i]].tolist()
            end = self._end_turn(self.episodes[i], turn, bool(stopped[i]), failed, i)
            terminated[i] = end.terminated
            truncated[i] = end.truncated
            replies[i] = end.reply
            new_length = self.lengths[i] + len(end.reply)
            self.tokens[i, self.lengths[i] : new_length] = end.reply
            self.lengths[i] = new_length
            self._turn_start[i] = new_length
        over = terminated | truncated
        self._budget[ended] = np.where(over[ended], 0, self._limit[ended])
        self.done |= over
        self.terminated |= terminated
        self.truncated |= truncated

        scores = self._score([self.episodes[i] for i in rows], over[rows].tolist(), while_scoring)
        valid: BoolArray = np.ones(self.num_envs, np.bool_)
        valid[rows] = scores.valid
        valid[failed] = False
        components = {name: np.full(self.num_envs, np.nan) for name in scores.components}
        for name, values in scores.components.items():
            components[name][rows] = values
            components[name][failed] = np.nan
        rewards = self._place_rewards(scores, rows, consumed, width)
        return Segment(consumed, replies, rewards, valid, components, ended, terminated, truncated)

    def _end_turn(self, episode: Episode, turn: list[int], stopped: bool, failed: list[int], row: int) -> TurnEnd:
        """End a turn. If `reply` fails and the environment permits it, add the row to `failed` and end its episode."""
        try:
            return self.mdp.end_turn(episode, turn, stopped)
        except UserError as error:
            if not self.mdp.drop_failed_replies:
                raise
            warnings.warn(f"{place_of(episode.task)}: {error}; its episode is dropped", RuntimeWarning, stacklevel=4)
            failed.append(row)
            episode.truncated = True
            return TurnEnd(truncated=True)

    def _place_rewards(self, scores: Scores, rows: list[int], consumed: IntArray, width: int) -> FloatArray:
        """Return float [B, T], each row's total on the segment's last action, token rewards on their own tokens."""
        rewards: FloatArray = np.zeros((self.num_envs, width))
        rewards[rows, consumed[rows] - 1] = scores.total
        # Without token rewards the zip is empty, so it cannot be strict.
        for i, per_token, total in zip(rows, scores.token_rewards or [], scores.total, strict=False):
            if not np.isnan(total):
                in_segment = np.asarray(per_token, np.float64)[-consumed[i] :]
                rewards[i, : consumed[i]] = in_segment
                # The rest of the total: turn and episode rewards, and token rewards of earlier segments of the turn.
                rewards[i, consumed[i] - 1] += total - in_segment.sum()
        return rewards

    def _score(self, episodes: list[Episode], over: list[bool], while_scoring: Callable[[], object] | None) -> Scores:
        """Score episodes; call `while_scoring` meanwhile if only worker processes compute the last rewards."""
        # A user's own Reward may lack the attribute.
        out_of_process = getattr(self.mdp.reward, "out_of_process", False)
        overlaps = while_scoring is not None and self.done.all() and out_of_process
        # Rewards stay in this thread: KeyboardInterrupt arrives in the main thread, and must end their processes.
        with ThreadPoolExecutor(1) if overlaps else nullcontext() as thread:
            work = thread.submit(while_scoring) if thread and while_scoring else None
            start = time.perf_counter()
            scores = self.mdp.score(episodes, over)
            self.reward_seconds += time.perf_counter() - start
        if work is not None:
            work.result()  # raises the error of while_scoring, if it raised one
        return scores

    def _observation(self) -> Observation:
        return {"tokens": self.tokens.copy(), "length": self.lengths.copy()}
