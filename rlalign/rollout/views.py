"""Read-only copies of samples for functions of the user's own: no change of them reaches training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlalign.rollout.collect import Rollout
from rlalign.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Samples:
    """N completions with their rewards, of a step or of an evaluation.

    Arrays are copies that refuse writes. The samples of one prompt are neighbors.

    Attributes:
        prompts: N texts.
        completions: N texts, the policy's turns without environment messages.
        messages: N whole trajectories, as messages with roles.
        columns: N dictionaries, the columns of the tasks.
        rewards: float64 [N], the weighted sum that is trained on; NaN where a reward failed.
        components: name -> float64 [N], unweighted; NaN where one failed or did not apply.
        lengths: int64 [N], tokens that the policy chose.
        truncated: bool [N], a limit ended the episode.
        group_ids: int64 [N], equal for samples of one prompt.
    """

    prompts: list[str]
    completions: list[str]
    messages: list[list[dict[str, str]]]
    columns: list[dict[str, Any]]
    rewards: FloatArray
    components: Mapping[str, FloatArray]
    lengths: IntArray
    truncated: BoolArray
    group_ids: IntArray

    def __len__(self) -> int:
        return len(self.completions)


@dataclass(frozen=True)
class RolloutView(Samples):
    """The samples of a step, with their tokens over L columns and their advantages.

    Attributes:
        prompts: N texts, as in `Samples`.
        completions: N texts, as in `Samples`.
        messages: N whole trajectories, as in `Samples`.
        columns: N dictionaries, as in `Samples`.
        rewards: float64 [N], as in `Samples`.
        components: name -> float64 [N], as in `Samples`.
        lengths: int64 [N], as in `Samples`.
        truncated: bool [N], as in `Samples`.
        group_ids: int64 [N], as in `Samples`.
        step: the step that they belong to, from 1.
        tokens: int64 [N, L], contexts right-padded.
        action_mask: bool [N, L], true where the policy chose the token.
        sampler_logprobs: float32 [N, L], of the sampling distribution; None: they were not recorded.
        advantages: float32 [N, L], as the loss reads them; None for a preference loss, which has none.
        valid: bool [N], rows that enter the loss.
    """

    step: int
    tokens: IntArray
    action_mask: BoolArray
    sampler_logprobs: NDArray[np.float32] | None
    advantages: NDArray[np.float32] | None
    valid: BoolArray


def samples_view(rollout: Rollout) -> Samples:
    """Return a rollout's samples as copies."""
    return Samples(**_samples(rollout))


def rollout_view(rollout: Rollout, step: int, advantages: Tensor | None, valid: Tensor | None) -> RolloutView:
    """Return a rollout with its advantages as copies.

    Args:
        rollout: N trajectories.
        step: the step, from 1.
        advantages: float [N, L], on any device.
        valid: bool [N], rows that enter the loss; None: those of the rollout.
    """
    return RolloutView(
        **_samples(rollout),
        step=step,
        tokens=frozen(rollout.tokens),
        action_mask=frozen(rollout.action_mask),
        sampler_logprobs=None if rollout.sampler_logprobs is None else frozen(rollout.sampler_logprobs),
        advantages=None if advantages is None else frozen(advantages.float()),
        valid=frozen(rollout.valid if valid is None else valid),
    )


def frozen(values: Tensor | Sequence[Any] | NDArray[Any]) -> Any:
    """Return a copy of an array or a tensor as a numpy array that refuses writes."""
    array = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    array.flags.writeable = False
    return array


def _samples(rollout: Rollout) -> dict[str, Any]:
    return {
        "prompts": list(rollout.prompts),
        "completions": list(rollout.completions),
        "messages": copy.deepcopy(rollout.messages),
        # one call: the memo of deepcopy copies a task once that several samples share
        "columns": copy.deepcopy([dict(task.columns) for task in rollout.tasks]),
        "rewards": frozen(rollout.returns.double()),
        "components": {name: frozen(values.double()) for name, values in rollout.components.items()},
        "lengths": frozen(rollout.num_actions),
        "truncated": frozen(rollout.truncated),
        "group_ids": frozen(rollout.group_ids),
    }
