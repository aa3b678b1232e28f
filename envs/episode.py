"""The state of one episode, and the environment's response to a turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from rlalign.types import Prompt, Task


@dataclass
class Episode:
    """State of one episode besides its token ids. `TextMDP.begin` makes one.

    Attributes:
        task: the initial state.
        seed: entropy of `rng`: the environment's seed, the task and the number of the reset. Episodes of one task that
            one reset begins start in the same state, random generator included.
        state: the author's dictionary, passed to `reply` and, as column `state`, to rewards.
        turns: ids of each finished turn, stop id included.
        texts: text of each finished turn, without special tokens.
        replies: ids of each environment message.
        reply_texts: text of each environment message.
        truncated: a limit ended the episode.
        extra: values that rewards logged for it (TRL's `log_extra`), by column.
    """

    task: Task
    seed: tuple[int, ...] = (0,)
    state: dict[str, Any] = field(default_factory=dict)
    turns: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    replies: list[list[int]] = field(default_factory=list)
    reply_texts: list[str] = field(default_factory=list)
    truncated: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rng(self) -> np.random.Generator:
        """The episode's random generator."""
        return np.random.default_rng(self.seed)

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """Return the whole trajectory as messages: the prompt, then turns and environment messages in their order.

        The policy's role is "assistant", that of environment messages "environment". A prompt that is a text has the
        role "user".

        Args:
            prompt: the prompt of the policy.
        """
        first = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else map(dict, prompt)
        messages = [{str(key): str(value) for key, value in message.items()} for message in first]
        for turn, reply in zip_longest(self.texts, self.reply_texts):
            messages.append({"role": "assistant", "content": turn})
            if reply is not None:
                messages.append({"role": "environment", "content": reply})
        return messages


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The environment's response to a finished turn: a message, or the end of the episode.

    Attributes:
        reply: ids of the environment message; empty at the end of the episode.
        terminated: a stop id (one turn) or `reply` (several turns) ended the episode.
        truncated: `max_new` (one turn) or `max_turns` ended the episode.
    """

    reply: tuple[int, ...] = ()
    terminated: bool = False
    truncated: bool = False
