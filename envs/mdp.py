"""The token MDP. Everything that text generation with feedback is, in one class; the Gymnasium views only walk it.

    S   the context: ids of prompt, turn, reply, turn, ... in the order they came (append-only, never re-tokenised),
        and the episode's hidden `state` dictionary
    A   one token id
    P   a token is appended; a stop id or the limit `max_new` ends the turn; then the environment's reply is appended
    R   the score of the turn's or the episode's text, paid on its last token; 0 on every other token

A single-turn episode (max_turns == 1) terminates on a stop id and is truncated by `max_new`. A multi-turn one asks
`reply` after each turn: None terminates; otherwise the episode is truncated when the turns are used up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rlalign.envs.task_sources import SPLITS, as_source
from rlalign.errors import ReplyError, RLAlignError, UserError
from rlalign.tokenizers import ByteTokenizer, as_tokenizer
from rlalign.types import Reward, Scores, Task, TaskSource, Tokenizer

_RESERVED = {
    *("event", "prompts", "completions", "completion_ids"),
    *("state", "turns", "replies", "truncated", "group_ids"),
}


@dataclass
class Episode:
    """What the environment remembers of one episode besides its token ids.

    Attributes:
        task: the initial state.
        seed: entropy of `rng`: the environment's seed, the task and the number of the reset. Episodes of one task begun
            by one reset start from one state, random generator included.
        state: the author's own dictionary, given to `reply` and, as column `state`, to rewards.
        turns, texts: ids and text of each finished turn.
        replies: ids of each reply.
        truncated: a limit ended the episode.
    """

    task: Task
    seed: tuple[int, ...] = (0,)
    state: dict[str, Any] = field(default_factory=dict)
    turns: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    replies: list[list[int]] = field(default_factory=list)
    truncated: bool = False

    @cached_property
    def rng(self) -> np.random.Generator:
        """The episode's own random generator."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended: what the environment says next, or why it says nothing more."""

    reply: tuple[int, ...] = ()
    terminated: bool = False
    truncated: bool = False


class TextMDP:
    """A task source, a reward and limits; subclass it and override `reply` for an environment that answers.

    Class attributes are the defaults, keyword arguments replace them. The tokenizer may be exchanged
    (`with_tokenizer`), so `reply` encodes its text when it is asked and keeps no ids.

    Attributes:
        id, description: name (`namespace/Name-v0`) and one line for `rlalign list envs`.
        rewards: default reward specs -> weights; `rlalign.envs.registration` composes them into `reward`.
        gold_score: the largest episode reward, reached by saying `reference_turns`; None when unknown.
        source: anything that `rlalign.envs.task_sources.as_source` takes.
        max_prompt: token ids of a prompt at most; a longer one raises UserError.
        max_new: token ids that the policy may say in a turn. A pair is (with the environment's own tokenizer, with any
            other): one word is one id to the first, and several to the second.
        max_turns: turns of an episode; 1 means that `reply` is never asked.
        max_reply: token ids of one reply at most.
    """

    id: str = "TextMDP"
    description: str = ""
    rewards: ClassVar[Mapping[str, float]] = {}
    gold_score: float | None = None
    source: TaskSource
    tokenizer: Tokenizer
    max_prompt: int = 512
    max_new: int = 64
    max_turns: int = 1
    max_reply: int = 0
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
    ) -> None:
        source = source if source is not None else getattr(type(self), "source", None)
        if source is None:
            raise UserError(
                f"{self.id} has no tasks: give source=[...], a data file, a dataset or a function of an rng"
            )
        self.source = as_source(source)
        self.tokenizer = self.default_tokenizer() if tokenizer is None else as_tokenizer(tokenizer)
        self.reward = reward
        if rewards is not None:  # the defaults of this configuration, where they are not the class's
            self.rewards = rewards  # type: ignore[misc]  # the class says what an instance may say anew
        if isinstance(max_new, tuple):
            own, self._max_new_of_others = max_new
            max_new = own if tokenizer is None else self._max_new_of_others
        self._limit(max_prompt=max_prompt, max_new=max_new, max_turns=max_turns, max_reply=max_reply)

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """A copy that speaks another tokenizer's ids."""
        changed = copy.copy(self)
        changed.tokenizer = as_tokenizer(tokenizer)
        before, after = (getattr(mdp.tokenizer, "spec", None) for mdp in (self, changed))
        if self._max_new_of_others is not None and before != after:
            changed.max_new = self._max_new_of_others
        return changed

    def with_limits(self, **limits: int | None) -> Self:
        """A copy with other values of max_prompt, max_new, max_turns or max_reply."""
        changed = copy.copy(self)
        if limits.get("max_new") is not None:
            changed._max_new_of_others = None
        changed._limit(**limits)
        return changed

    def _limit(self, **limits: int | None) -> None:
        for name, value in limits.items():
            if value is None:
                continue
            if value < (0 if name == "max_reply" else 1):
                raise UserError(f"{self.id}: {name} is {value}, it must be positive")
            setattr(self, name, value)
        if self.max_turns > 1 and self.max_reply < 1:
            raise UserError(f"{self.id}: max_turns is {self.max_turns}, so max_reply must leave room for a reply")

    def default_tokenizer(self) -> Tokenizer:
        """The tokenizer used when none is given: bytes, unless the environment has a smaller alphabet."""
        return ByteTokenizer()

    @classmethod
    def label(cls) -> str:
        """What messages call it: its id, or its class's name where it was registered under none."""
        return cls.__name__ if cls.id == TextMDP.id else cls.id

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn: EOS; an environment may add others."""
        return frozenset({self.tokenizer.eos_id})

    @property
    def max_context(self) -> int:
        """L, the ids of the longest context there can be."""
        return self.max_prompt + self.max_turns * self.max_new + (self.max_turns - 1) * self.max_reply

    # ---- P: what an author overrides ----

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """The environment's answer to a turn, as ids; None ends the episode.

        Args:
            task: the initial state.
            turn_ids: what the policy said, its stop id included when it said one.
            state: the episode's own dictionary, empty at its start, to be changed in place.
            rng: the only permitted source of randomness.
        """
        return None

    def reference_turns(self, task: Task) -> Sequence[str] | None:
        """What a policy that knows the task would say, turn by turn; the last again until the episode ends.

        The `answer` column, unless the environment says otherwise. None: it is not known. Checks play it, and
        supervised steps imitate it.
        """
        answer = task.columns.get("answer")
        return [answer] if isinstance(answer, str) else None

    # ---- the steps of an episode, shared by the views ----

    def begin(self, task: Task, seed: int, episode: int) -> Episode:
        """Start an episode. Raises UserError when a column has a name that rewards receive already."""
        if taken := _RESERVED.intersection(task.columns):
            raise UserError(f"column '{min(taken)}' of {self.id}: rewards get a column of that name already, rename it")
        return Episode(task, (max(seed, 0), SPLITS.index(task.split), task.index, episode))

    def prompt_ids(self, task: Task) -> list[int]:
        """Ids of the initial context. Raises UserError when they are none or more than `max_prompt`."""
        ids = self.tokenizer.encode_prompt(task.prompt)
        if not 0 < len(ids) <= self.max_prompt:
            what = (
                f"{len(ids)} tokens, max_prompt is {self.max_prompt}: raise max_prompt" if ids else "no token: say more"
            )
            raise UserError(f"the prompt of {task.split} task {task.index} of {self.id} has {what}")
        return ids

    def end_turn(self, episode: Episode, turn_ids: list[int], stopped: bool) -> TurnEnd:
        """Record a turn that ended by a stop id (`stopped`) or by `max_new`, and ask what comes next."""
        episode.turns.append(turn_ids)
        episode.texts.append(self.tokenizer.decode(turn_ids))
        if self.max_turns == 1:
            episode.truncated = not stopped
            return TurnEnd(terminated=stopped, truncated=not stopped)
        said = self._said(episode, turn_ids)
        if said is None:
            return TurnEnd(terminated=True)
        if len(episode.turns) == self.max_turns:
            episode.truncated = True
            return TurnEnd(truncated=True)
        if len(said) > self.max_reply:
            raise UserError(
                f"a reply of {self.label()} has {len(said)} tokens, max_reply is {self.max_reply}: raise max_reply"
            )
        episode.replies.append(said)
        return TurnEnd(reply=tuple(said))

    def _said(self, episode: Episode, turn_ids: Sequence[int]) -> list[int] | None:
        """What `reply` answers. Raises ReplyError where it fails or says what is no ids."""
        name = f"reply of {self.label()}"
        try:
            said: Any = self.reply(episode.task, tuple(turn_ids), episode.state, episode.rng)
        except RLAlignError:
            raise
        except Exception as error:
            raise ReplyError(f"{name} failed: {type(error).__name__}: {error}") from error
        if said is None:
            return None
        if isinstance(said, str):
            raise ReplyError(f"{name} returned a text: it must return ids, self.tokenizer.encode(text)")
        try:
            return [int(i) for i in said]
        except (TypeError, ValueError):
            raise ReplyError(f"{name} returned {said!r}: it must return ids, self.tokenizer.encode(text)") from None

    def score(self, episodes: Sequence[Episode], over: Sequence[bool]) -> Scores:
        """R: score n episodes whose turn has just ended, and as a whole those that are `over`.

        Rewards see the state that `reply` left. The total is the sum of the two parts, NaN where either failed.
        """
        n = len(episodes)
        scopes = {} if self.reward is None else {k: s for k, s in self.reward.scopes.items() if s != "group"}
        total, valid = np.zeros(n), np.ones(n, np.bool_)
        components = {name: np.full(n, np.nan) for name in scopes}
        token_rewards = None
        events: tuple[tuple[Literal["turn", "episode"], list[int], set[str]], ...] = (
            ("turn", list(range(n)), {k for k, s in scopes.items() if s in ("turn", "token")}),
            ("episode", [i for i in range(n) if over[i]], {k for k, s in scopes.items() if s == "episode"}),
        )
        for event, rows, names in events:
            if self.reward is None or not rows or not names:
                continue
            scored = [episodes[i] for i in rows]
            scores = self.reward.score(event, *self.texts(scored, last_turn=event == "turn"), **self.columns(scored))
            total[rows] += scores.total
            valid[rows] &= scores.valid
            for name in names.intersection(scores.components):
                components[name][rows] = scores.components[name]
            if event == "turn":
                token_rewards = scores.token_rewards
        return Scores(total, valid, components, token_rewards)

    def texts(
        self, episodes: Iterable[Episode], last_turn: bool = False
    ) -> tuple[list[Any], list[str], list[list[int]]]:
        """Prompts, completions and their ids as rewards get them: the last turn, or all turns joined by newlines."""
        prompts = [e.task.prompt for e in episodes]
        if last_turn:
            return prompts, [e.texts[-1] for e in episodes], [e.turns[-1] for e in episodes]
        return prompts, ["\n".join(e.texts) for e in episodes], [list(chain(*e.turns)) for e in episodes]

    def columns(self, episodes: Sequence[Episode]) -> dict[str, list[Any]]:
        """The tasks' columns as lists (None where a task has none), then `state`, `turns`, `replies`, `truncated`."""
        names = dict.fromkeys(name for e in episodes for name in e.task.columns)
        return {
            **{name: [e.task.columns.get(name) for e in episodes] for name in names},
            "state": [e.state for e in episodes],
            "turns": [list(e.texts) for e in episodes],
            "replies": [[self.tokenizer.decode(r) for r in e.replies] for e in episodes],
            "truncated": [e.truncated for e in episodes],
        }
