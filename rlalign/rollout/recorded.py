"""Rollouts that were recorded: demonstrations, logged rewards, preferences and labels, as token ids.

A recorded trajectory has what a sampled one has: tokens, a mask of actions, a reward. It may lack the log-probs of the
policy that wrote it. Groups are drawn in a new random order in each pass over the data.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from rlalign.errors import FaultError
from rlalign.rollout.collect import Rollout
from rlalign.rollout.source import Drawn, TokenRows
from rlalign.types import IntArray, Prompt, Task


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One recorded trajectory of n tokens.

    Attributes:
        ids: n token ids: the prompt, turns, and messages of others.
        actions: n flags, 1 or true on the tokens that a policy chose, which are trained on.
        reward: return of the trajectory: 1 for a demonstration, a chosen or a desirable completion, 0 for a rejected or
            an undesirable one, else the logged number.
        logprobs: log-prob of each action under the policy that wrote it; None: not recorded.
        truncated: a limit cut it, so that no token ends it.
        prompt: text or messages, for the log of samples.
        completion: text, for the log of samples.
        place: file and row.
    """

    ids: Sequence[int]
    actions: Sequence[int]
    reward: float = 1.0
    logprobs: Sequence[float] | None = None
    truncated: bool = False
    prompt: Prompt = ""
    completion: str = ""
    place: str = ""

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the first action."""
        return self.actions.index(True)

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return sum(self.actions)

    def compact(self) -> Self:
        """Return the trajectory with ids and flags in 5 bytes per token; lists of Python objects take about 40."""
        return replace(self, ids=array("i", self.ids), actions=bytes(self.actions))


Group = Sequence[Trajectory]
"""Trajectories of one prompt; the chosen and then the rejected one of a preference."""


@dataclass(slots=True)
class GroupOrder:
    """An endless order of `count` groups: a random permutation in each pass. Its whole state is a position.

    Attributes:
        count: number of groups.
        seed: of the permutations.
        position: groups taken so far.

    Example:
        >>> order = GroupOrder(3, seed=0)
        >>> sorted(order.next(3)), sorted(order.next(3))
        ([0, 1, 2], [0, 1, 2])
    """

    count: int
    seed: int
    position: int = 0
    _pass: tuple[int, IntArray] = field(default=(-1, np.empty(0, np.int64)), repr=False)

    def next(self, n: int) -> list[int]:
        """Return the numbers of the next n groups."""
        numbers = []
        for position in range(self.position, self.position + n):
            number, place = divmod(position, self.count)
            if self._pass[0] != number:
                self._pass = (number, np.random.default_rng([self.seed, number]).permutation(self.count))
            numbers.append(int(self._pass[1][place]))
        self.position += n
        return numbers


class RecordedRollouts:
    """A source of rollouts that were recorded (`rlalign.rollout.source.RolloutSource`).

    Args:
        groups: the data; one or more.
        per_step: groups of a step.
        seed: of the order.
        mismatched: also return each prompt with the completion of the row before it (see `mismatched_rows`).
        positions: most token ids that the model reads; None: no limit.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        per_step: int,
        seed: int,
        mismatched: bool = False,
        positions: int | None = None,
    ) -> None:
        self.groups = groups
        self.per_step = per_step
        self.order = GroupOrder(len(groups), seed)
        self._mismatched = mismatched
        self._positions = positions

    @property
    def passes(self) -> float:
        """Passes over the data so far."""
        return self.order.position / self.order.count

    def draw(self, step: int) -> Drawn:
        """Return the next groups.

        Args:
            step: not used: the position decides.
        """
        groups = [self.groups[number] for number in self.order.next(self.per_step)]
        rollout = rollout_of(groups)
        rows = [trajectory for group in groups for trajectory in group]
        mismatched = mismatched_rows(rows, self._positions) if self._mismatched else None
        return Drawn(rollout, rollout, mismatched=mismatched, passes=self.passes)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data."""
        return {"seed": self.order.seed, "size": self.order.count, "position": self.order.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position.

        Raises:
            FaultError: the state belongs to data of another size or another seed.
        """
        for name, value in self.state_dict().items():
            if name != "position" and state.get(name) != value:
                raise FaultError(
                    f"cannot resume the order of the data: its {name} was {state.get(name)}, now it is {value}"
                )
        self.order.position = int(state["position"])


def rollout_of(groups: Sequence[Group]) -> Rollout:
    """Return groups of trajectories as one rollout. Rows of a group are neighbors and share their `group_ids`.

    `sampler_logprobs` is None unless each trajectory has log-probs.
    """
    rows = [trajectory for group in groups for trajectory in group]
    layout = token_rows(rows)
    mask = layout.action_mask
    logprobs = None
    if all(row.logprobs is not None for row in rows):
        logprobs = torch.zeros(mask.shape)
        logprobs[mask] = torch.tensor([value for row in rows for value in row.logprobs or ()], dtype=torch.float32)
    rewards = torch.zeros(mask.shape)
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    rewards[torch.arange(len(rows)), last] = torch.tensor([row.reward for row in rows], dtype=torch.float32)
    truncated = torch.tensor([row.truncated for row in rows])
    return Rollout(
        tokens=layout.tokens,
        lengths=layout.lengths,
        action_mask=mask,
        sampler_logprobs=logprobs,
        rewards=rewards,
        valid=torch.ones(len(rows), dtype=torch.bool),
        components={},
        group_ids=torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(group) for group in groups])),
        terminated=~truncated,
        truncated=truncated,
        tasks=[Task(row.prompt, {}, place=row.place) for row in rows],
        prompts=[row.prompt if isinstance(row.prompt, str) else "" for row in rows],
        completions=[row.completion for row in rows],
        messages=[_messages(row) for row in rows],
        extra=[{} for _ in rows],
    )


def token_rows(rows: Sequence[Trajectory]) -> TokenRows:
    """Return trajectories as padded tensors."""
    return _padded([row.ids for row in rows], [row.actions for row in rows])


def mismatched_rows(rows: Sequence[Trajectory], positions: int | None = None) -> TokenRows:
    """Return each prompt with the completion of the row before it, the first with that of the last.

    These pairs are those from which KTO estimates KL(pi‖ref) (Ethayarajh et al. 2024, arXiv 2402.01306, §4.1).

    Args:
        rows: of one step; each has one turn.
        positions: most token ids that the model reads, as each row has; longer combinations are left out. None: no
            limit.
    """
    ids: list[Sequence[int]] = []
    actions: list[Sequence[int]] = []
    for i, row in enumerate(rows):
        other = rows[i - 1]
        prompt = list(row.ids[: row.prompt_length])
        completion = list(other.ids[other.prompt_length :])
        if positions is not None and len(prompt) + len(completion) > positions:
            continue  # the shortest prompt is never left out: it is shorter than that of the other completion
        ids.append([*prompt, *completion])
        actions.append([False] * len(prompt) + list(other.actions[other.prompt_length :]))
    return _padded(ids, actions)


def _padded(ids: Sequence[Sequence[int]], actions: Sequence[Sequence[int]]) -> TokenRows:
    lengths = torch.tensor([len(row) for row in ids])
    tokens = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long)
    mask: Tensor = torch.zeros_like(tokens, dtype=torch.bool)
    for i, (row, flags) in enumerate(zip(ids, actions, strict=True)):
        tokens[i, : len(row)] = torch.tensor(list(row))
        mask[i, : len(row)] = torch.tensor(list(flags))
    return TokenRows(tokens, lengths, mask)


def _messages(row: Trajectory) -> list[dict[str, str]]:
    prompt = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else list(row.prompt)
    return [*prompt, {"role": "assistant", "content": row.completion}]
