"""The state of one episode, and the environment's response to a turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlalign.types import Task


@dataclass
class Episode:
    """State of one episode besides its token ids.

    Attributes:
        task: the initial state.
        seed: entropy of `rng`: the environment's seed, the task and the number of the reset. Episodes of one task that
            one reset begins start in the same state, random generator included.
        state: the author's dictionary, passed to `reply` and, as column `state`, to rewards.
        turns, texts: ids and text of each finished turn.
        replies: ids of each environment message.
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
        """The episode's random generator."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The environment's response to a finished turn: a message, or the end of the episode."""

    reply: tuple[int, ...] = ()
    terminated: bool = False
    truncated: bool = False
