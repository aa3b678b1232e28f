"""The token MDP: text generation with feedback as one class. The Gymnasium views only step through it.

    S   the context: ids of prompt, turn, reply, turn, ... in order of arrival (append-only, never re-tokenized), and
        the episode's hidden `state` dictionary
    A   one token id
    P   the token is appended; a stop id or the limit `max_new` ends the turn; then the environment message that `reply`
        returns is appended
    R   the score of the turn's or the episode's text, on its last token; 0 on every other token

A single-turn episode (max_turns == 1) terminates on a stop id and is truncated by `max_new`. A multi-turn episode calls
`reply` after each turn: None terminates it; otherwise it is truncated after `max_turns` turns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np

from rlalign.envs.encoded_prompts import encoded_alone
from rlalign.envs.episode import Episode, TurnEnd
from rlalign.envs.episode_scores import score_episodes, score_groups
from rlalign.envs.initial_context import check_columns, check_length
from rlalign.envs.null_reward import NullReward
from rlalign.envs.raw_texts import RawTexts
from rlalign.envs.replies import message_ids
from rlalign.envs.task_sources import SPLITS, as_source
from rlalign.errors import RecordError, UserError
from rlalign.tokenizers import ByteTokenizer, as_tokenizer
from rlalign.typecheck import check_range
from rlalign.types import Prompt, Reward, Scores, Task, TaskSource, Tokenizer, reference_text


class TextMDP:
    """The token MDP: a task source, a reward and limits. Subclass it and override `reply` for several turns.

    The state is the context, the ids of prompt, turn, environment message, turn, ...; an action is one token id. A stop
    id or `max_new` ends a turn. With `max_turns` 1 a stop id terminates the episode and `max_new` truncates it. With
    more, None from `reply` terminates it and `max_turns` truncates it. The reward is on the last token of its text.

    Class attributes are the defaults; keyword arguments replace them. `with_reward`, `with_tokenizer` and
    `with_limits` return a copy with one part replaced. The tokenizer may be replaced, so `reply` must encode its text
    on each call and must not store ids.

    Args:
        source: tasks (see `rlalign.envs.task_sources.as_source`); required unless the class has the attribute.
        tokenizer: replaces the class's `tokenizer` or `default_tokenizer()` (see `rlalign.tokenizers.as_tokenizer`).
        reward: a reward that is composed already; None: no reward.
        rewards: default reward specs -> weights of this instance, if they differ from the class's.
        max_prompt: limit in token ids; None: the class's (so for each limit).
        max_new: limit in token ids; or a pair, the limit with the environment's default tokenizer, and the limit with
            any other tokenizer. One word is one id for the first and several ids for the second.
        max_turns: limit in turns.
        max_reply: limit in token ids.
        reply_timeout_s: limit in seconds; None: the class's. A class that sets it to None has no limit.

    Attributes:
        id: name, `namespace/Name-v0`.
        description: one line for `rlalign list envs`.
        rewards: default reward specs -> weights; `rlalign.envs.registration.make_mdp` composes them into `reward`.
        questions: the prompts are questions or instructions (False), which a chat template fits.
        chat_max_new: most token ids of an answer in a chat template, if `max_new` is not set; None: `max_new`.
        chat: plain-text prompts are user messages in the tokenizer's chat template; see `with_chat_template`.
        gold_score: the largest episode reward. The reference trajectory (`reference_turns`) reaches it. None: unknown.
        source: the task source.
        tokenizer: the tokenizer of prompts, turns and environment messages; on a class, anything that `as_tokenizer`
            takes, and None means `default_tokenizer()`.
        max_prompt: most token ids of a prompt (512; the longest prompt of the data in an environment of data).
        max_new: most token ids that the policy generates per turn, stop id included (64).
        max_turns: most turns per episode (1); with 1, `reply` is never called.
        max_reply: most token ids of one environment message (0); at least 1 if `max_turns` is above 1.
        reply_timeout_s: most seconds of a call of `reply` (30); None: no limit. See `rlalign.envs.time_limit`.
        drop_failed_replies: an episode whose `reply` fails is invalid in a vector environment (False: the error is
            raised). Runs set it with on_bad_record drop.

    Raises:
        UserError: there is no source, or a limit is out of range.

    Example:
        >>> class Guess(TextMDP):
        ...     max_turns = 3
        ...     max_reply = 8
        ...     def reply(self, task, turn_ids, state, rng):
        ...         right = self.tokenizer.decode(turn_ids) == task.columns["answer"]
        ...         return None if right else "no. "
        >>> mdp = Guess(source=[{"prompt": "1 to 9: ", "answer": "7"}], rewards={"exact_match": 1.0})
        >>> mdp.max_context  # 512 + 3 · 64 + 2 · 8
        720
    """

    id: str = "TextMDP"
    description: str = ""
    rewards: ClassVar[Mapping[str, float]] = {}
    questions: bool = False
    chat_max_new: int | None = None
    chat: bool = False
    gold_score: float | None = None
    source: TaskSource
    tokenizer: Tokenizer
    max_prompt: int = 512
    max_new: int = 64
    max_turns: int = 1
    max_reply: int = 0
    reply_timeout_s: float | None = 30.0
    drop_failed_replies: bool = False
    # The second number of a pair `max_new`; None once a single limit holds for every tokenizer.
    _max_new_of_others: int | None = None

    def __init__(
        self,
        *,
        source: Any = None,
        tokenizer: Any = None,
        reward: Reward | None = None,
        rewards: Mapping[str, float] | None = None,
        max_prompt: int | None = None,
        max_new: int | tuple[int, int] | None = None,
        max_turns: int | None = None,
        max_reply: int | None = None,
        reply_timeout_s: float | None = None,
    ) -> None:
        source = source if source is not None else getattr(type(self), "source", None)
        if source is None:
            raise UserError(
                f"{self.id}: expected tasks, got none; use source=[...], a data file, a dataset or a function of an rng"
            )
        self.source = as_source(source)
        spec = tokenizer if tokenizer is not None else getattr(type(self), "tokenizer", None)
        self.tokenizer = self.default_tokenizer() if spec is None else as_tokenizer(spec)
        self.reward = reward
        if rewards is not None:
            self.rewards = rewards  # type: ignore[misc]  # an instance may replace the class's defaults
        if isinstance(max_new, tuple):
            own_limit, self._max_new_of_others = max_new
            max_new = own_limit if tokenizer is None else self._max_new_of_others
        self._set_limits(max_prompt=max_prompt, max_new=max_new, max_turns=max_turns, max_reply=max_reply)
        if reply_timeout_s is not None:
            self.reply_timeout_s = reply_timeout_s
        if self.reply_timeout_s is not None:
            check_range(f"reply_timeout_s of {self.id}", self.reply_timeout_s, above=0, below=math.inf)

    # ---- copies with one part replaced ----

    def with_reward(self, reward: Reward | None) -> Self:
        """Return a copy with another reward (see `rlalign.rewards.compose`); None: no reward."""
        copied = copy.copy(self)
        copied.reward = reward
        return copied

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """Return a copy with another tokenizer (see `rlalign.tokenizers.as_tokenizer`)."""
        copied = copy.copy(self)
        copied.tokenizer = as_tokenizer(tokenizer)
        old_spec = getattr(self.tokenizer, "spec", None)
        new_spec = getattr(copied.tokenizer, "spec", None)
        if self._max_new_of_others is not None and old_spec != new_spec:
            copied.max_new = self._max_new_of_others
        return copied

    def with_limits(self, **limits: int | None) -> Self:
        """Return a copy with other values of max_prompt, max_new, max_turns or max_reply; None keeps a value.

        `max_new` is then one limit for every tokenizer.

        Raises:
            UserError: a limit is out of range.
        """
        copied = copy.copy(self)
        if limits.get("max_new") is not None:
            copied._max_new_of_others = copied.chat_max_new = None
        copied._set_limits(**limits)
        return copied

    def _set_limits(self, **limits: int | None) -> None:
        for name, value in limits.items():
            if value is not None:
                check_range(f"{name} of {self.id}", value, least=0 if name == "max_reply" else 1)
                setattr(self, name, value)
        if self.max_turns > 1:
            fix = f"max_turns is {self.max_turns}, and a reply needs room"
            check_range(f"max_reply of {self.id}", self.max_reply, least=1, fix=fix)

    # ---- properties ----

    @property
    def reward(self) -> Reward:
        """The composed reward; a `NullReward` if the environment has none. Assigning None removes the reward."""
        return self._reward

    @reward.setter
    def reward(self, reward: Reward | None) -> None:
        self._reward: Reward = NullReward() if reward is None else reward

    @property
    def has_reward(self) -> bool:
        """Whether the environment has a reward."""
        return not isinstance(self._reward, NullReward)

    def default_tokenizer(self) -> Tokenizer:
        """Return the tokenizer to use by default: bytes, unless the environment has a smaller alphabet."""
        return ByteTokenizer()

    @classmethod
    def label(cls) -> str:
        """Return the name for messages: the id, or the class's name if it is not registered."""
        return cls.__name__ if cls.id == TextMDP.id else cls.id

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn: EOS, and `stop_ids` of a tokenizer that has them; an environment may add others."""
        return frozenset(getattr(self.tokenizer, "stop_ids", ())) | {self.tokenizer.eos_id}

    @property
    def max_context(self) -> int:
        """L, the number of ids of the longest possible context."""
        # No message follows the last turn, so an episode has one message fewer than turns.
        return self.max_prompt + self.max_generated

    @property
    def max_actions(self) -> int:
        """L_max, the most ids that a policy writes in an episode."""
        return self.max_turns * self.max_new

    @property
    def max_generated(self) -> int:
        """Number of ids after the prompt of the longest possible context: turns and environment messages."""
        return self.max_actions + (self.max_turns - 1) * self.max_reply

    def turn_limit(self, task: Task) -> int:
        """Return the most token ids of a turn in an episode of a task."""
        return self.max_new

    # ---- P: methods that an author overrides ----

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | str | None:
        """Return the environment message after a turn, as a text or as ids, or None to end the episode.

        The call may take `reply_timeout_s` seconds. It must not change the task, which other episodes share.

        Args:
            task: the initial state.
            turn_ids: ids that the policy generated, including the stop id if there is one.
            state: the episode's dictionary, empty at its start; change it in place.
            rng: the only permitted source of randomness.

        Returns:
            A text or ids, at most `max_reply` ids. The default is None.
        """
        return None

    def reference_turns(self, task: Task) -> Sequence[str] | None:
        """Return the reference trajectory of a task, one text per turn, or None if it is unknown.

        The last text is repeated until the episode ends. The default is the task's `answer` column. Checks play the
        reference trajectory, and supervised steps imitate it.
        """
        reference = reference_text(task.columns.get("answer"))
        return None if reference is None else [reference]

    # ---- the steps of an episode, shared by the views ----

    def begin(self, task: Task, seed: int, episode: int) -> Episode:
        """Return a new episode.

        Args:
            task: the initial state.
            seed: of the environment.
            episode: number of the reset.

        Raises:
            RecordError: a column has a name that rewards receive already.
        """
        check_columns(task)
        # Entropy of a generator must not be negative.
        return Episode(task, (max(seed, 0), SPLITS.index(task.split), task.index, episode))

    def policy_prompt(self, task: Task) -> Prompt:
        """Return the prompt of a task as the tokenizer encodes it."""
        if self.chat and isinstance(task.prompt, str):
            return [{"role": "user", "content": task.prompt.strip()}]
        return task.prompt

    def prompt_ids(self, task: Task) -> list[int]:
        """Return the ids of the initial context.

        Raises:
            RecordError: the prompt cannot be encoded, has no ids, or more than `max_prompt`.
        """
        ids = encoded_alone(self, task)
        if isinstance(ids, RecordError):
            raise ids
        check_length(task, ids, self.max_prompt, self.id)
        return ids

    def end_turn(self, episode: Episode, turn_ids: list[int], stopped: bool) -> TurnEnd:
        """Record a finished turn and return the environment's response.

        Args:
            episode: changed in place.
            turn_ids: ids of the turn, including the stop id if there is one.
            stopped: a stop id ended the turn, rather than `max_new`.

        Raises:
            ReplyError: `reply` raised, took too long, or returned something other than a text or ids.
            UserError: the message is longer than `max_reply`.
        """
        episode.turns.append(turn_ids)
        episode.texts.append(self.tokenizer.decode(turn_ids))
        if self.max_turns == 1:
            episode.truncated = not stopped
            return TurnEnd(terminated=stopped, truncated=not stopped)
        # `reply` is called after the last turn too: it may terminate the episode, and it updates the state for rewards.
        message = message_ids(self.reply, episode, turn_ids, self.label(), self.tokenizer, self.reply_timeout_s)
        if message is None:
            return TurnEnd(terminated=True)
        if len(episode.turns) == self.max_turns:
            episode.truncated = True
            return TurnEnd(truncated=True)
        if len(message) > self.max_reply:
            raise UserError(
                f"reply of {self.label()}: expected at most {self.max_reply} tokens, got {len(message)}; use a larger "
                "max_reply"
            )
        episode.replies.append(message)
        episode.reply_texts.append(self.tokenizer.decode(message))
        return TurnEnd(reply=tuple(message))

    # ---- R ----

    def score(self, episodes: Sequence[Episode], over: Sequence[bool]) -> Scores:
        """Score n episodes whose turn has just ended.

        Turn and token rewards score every row. Episode rewards score only the rows that are `over`. Rewards see the
        state that `reply` left.

        Args:
            episodes: n episodes.
            over: n flags, true if the episode has ended.

        Returns:
            Scores of n rows. A total is the sum of both parts, NaN if one of them failed; 0 if nothing is scored.
        """
        return score_episodes(self, episodes, over)

    def score_groups(self, episodes: Sequence[Episode], group_ids: Sequence[int]) -> Scores:
        """Score n finished episodes with the rewards of group scope.

        Args:
            episodes: n episodes.
            group_ids: n numbers, equal for samples of one task.
        """
        return score_groups(self, episodes, group_ids)

    def texts(
        self, episodes: Iterable[Episode], last_turn: bool = False
    ) -> tuple[list[Any], list[str], list[list[int]]]:
        """Return prompts, completions and completion ids, as rewards receive them.

        Args:
            episodes: finished turns of n episodes.
            last_turn: return the last turn only, rather than all turns, joined by newlines.
        """
        prompts = [e.task.prompt for e in episodes]
        if last_turn:
            return prompts, [e.texts[-1] for e in episodes], [e.turns[-1] for e in episodes]
        return prompts, ["\n".join(e.texts) for e in episodes], [list(chain(*e.turns)) for e in episodes]

    def columns(self, episodes: Sequence[Episode]) -> dict[str, Sequence[Any]]:
        """Return the columns that rewards receive, one list per name.

        The tasks' own columns come first (None if a task lacks one), then `state`, `turns`, `replies`, `truncated` and
        `completions_raw`, the completions with special tokens.
        """
        names: dict[str, None] = {}  # a dictionary, because a set would lose the order
        for episode in episodes:
            names |= dict.fromkeys(episode.task.columns)
        return {
            **{name: [e.task.columns.get(name) for e in episodes] for name in names},
            "state": [e.state for e in episodes],
            "turns": [list(e.texts) for e in episodes],
            "replies": [list(e.reply_texts) for e in episodes],
            "truncated": [e.truncated for e in episodes],
            "completions_raw": RawTexts(self.tokenizer, self.stop_ids, [e.turns for e in episodes]),
        }
