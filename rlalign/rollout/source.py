"""Where the rollouts of a run come from: the protocol that sampled and recorded rollouts share.

The learner, the objective and the micro-batches do not know which of them they get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from rlalign.rollout.collect import Rollout


@dataclass(frozen=True, slots=True)
class TokenRows:
    """N rows of tokens to score.

    Attributes:
        tokens: int64 [N, L], right-padded.
        lengths: int64 [N].
        action_mask: bool [N, L].
    """

    tokens: Tensor
    lengths: Tensor
    action_mask: Tensor


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rollout of a step.

    Attributes:
        rollout: to learn from.
        everything: all that was sampled for it; equal to `rollout` except with dynamic sampling, which selects groups.
        draws: number of rollouts that were sampled.
        precomputed: fields of the batch that were computed while rewards ran in worker processes; None: none.
        greedy_rewards: float [N], rewards of greedy completions of the same prompts; None: not sampled.
        mismatched: prompts with the completions of other prompts, from which KTO estimates its reference point; None:
            not needed.
        passes: passes over recorded data after the step; None: the rollout was sampled.
        order: metrics of the order of tasks.
        reward_seconds: time of the rewards.
    """

    rollout: Rollout
    everything: Rollout
    draws: int = 1
    precomputed: dict[str, Tensor | None] | None = None
    greedy_rewards: Tensor | None = None
    mismatched: TokenRows | None = None
    passes: float | None = None
    order: Mapping[str, float] = field(default_factory=dict)
    reward_seconds: float = 0.0


class RolloutSource(Protocol):
    """A source of rollouts with a position that a checkpoint stores."""

    def draw(self, step: int) -> Drawn:
        """Return the rollout of a step, counted from 0."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position."""
        ...
