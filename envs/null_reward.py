"""The reward of an environment that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlalign.types import Prompt, Scope, Scores


class NullReward:
    """A `rlalign.types.Reward` without components: every total is a valid 0.0, and nothing has state.

    `TextMDP.reward` is one if the environment has no reward, so that callers need no special case. Ask
    `TextMDP.has_reward` if the difference matters.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """An empty mapping."""
        return {}

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """An empty mapping."""
        return {}

    @property
    def scheduled(self) -> Sequence[str]:
        """An empty sequence."""
        return ()

    @property
    def out_of_process(self) -> bool:
        """False: no worker process computes anything."""
        return False

    def score(
        self,
        event: Literal["turn", "episode", "group"],
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[Any],
    ) -> Scores:
        """Return B valid totals of 0.0 without components."""
        count = len(completions)
        return Scores(np.zeros(count), np.ones(count, np.bool_), {})

    def bind(self, policy: Any) -> None:
        """Do nothing."""

    def pop_failures(self) -> Mapping[str, Mapping[str, int]]:
        """Return an empty mapping."""
        return {}

    def begin_step(self, step: int) -> None:
        """Do nothing."""

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Do nothing."""

    def state_dict(self) -> Mapping[str, float]:
        """Return an empty mapping."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
