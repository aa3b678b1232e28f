"""Dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards are all equal are replaced by newly sampled ones.

A group without reward variance has zero advantage on every row, so it contributes no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from rlalign.objective.groups import Groups
from rlalign.rollout.collect import Rollout


def has_reward_variance(rollout: Rollout) -> Tensor:
    """Return, per group, whether its valid rewards are not all equal; bool [groups]."""
    ids = rollout.group_ids
    returns = rollout.returns
    varied = Groups.of(ids, rollout.valid, returns.dtype).varied(returns)  # [N], equal within a group
    return varied.new_zeros(int(ids.max()) + 1).scatter(0, ids, varied)


def resample_groups(sample: Callable[[], Rollout], first: Rollout, *, max_draws: int) -> tuple[Rollout, list[Rollout]]:
    """Return a rollout with as many groups as `first`, those with reward variance before those without.

    Samples until each group has reward variance or `max_draws` rollouts exist, `first` among them. Missing groups are
    then filled from those of `first` without variance, so that the batch keeps its shape.

    Args:
        sample: returns another rollout.
        first: the first rollout of the step.
        max_draws: rollouts per step at most.

    Returns:
        The rollout, and all rollouts that were sampled. The selected groups are a biased sample; the mean reward and
        the cost in tokens are computed from all of them.
    """
    count = int(first.group_ids.max()) + 1
    varied = has_reward_variance(first)
    sampled = [first]
    selected = _groups(first, varied)
    fill = _groups(first, ~varied)
    while len(selected) < count and len(sampled) < max_draws:
        rollout = sample()
        sampled.append(rollout)
        selected += _groups(rollout, has_reward_variance(rollout))
    return join([*selected, *fill][:count]), sampled


def _groups(rollout: Rollout, chosen: Tensor) -> list[Rollout]:
    """Return the chosen groups (bool [groups]), each as a rollout of its own."""
    return [select_rows(rollout, rollout.group_ids == g) for g in torch.nonzero(chosen).flatten().tolist()]


def select_rows(rollout: Rollout, rows: Tensor) -> Rollout:
    """Return the rows (bool [N]) of a rollout."""
    index = torch.nonzero(rows).flatten()

    def select(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index]
        if isinstance(value, dict):
            return {name: tensor[index] for name, tensor in value.items()}
        return [value[i] for i in index.tolist()]

    return replace(rollout, **{f.name: select(getattr(rollout, f.name)) for f in fields(rollout)})


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """Concatenate rollouts: columns padded to the widest, groups renumbered, missing components NaN."""
    width = max(r.tokens.shape[1] for r in rollouts)
    component_names = dict.fromkeys(name for r in rollouts for name in r.components)

    def join_field(name: str) -> Any:
        values = [getattr(r, name) for r in rollouts]
        if name == "group_ids":
            ids = [v - v.min() for v in values]  # each rollout counts from 0
            offsets = [0, *accumulate(int(v.max()) + 1 for v in ids)]
            return torch.cat([v + offset for v, offset in zip(ids, offsets, strict=False)])
        if name == "components":
            missing = [torch.full((len(r),), torch.nan, dtype=torch.float64) for r in rollouts]
            return {
                c: torch.cat([v.get(c, nan) for v, nan in zip(values, missing, strict=True)]) for c in component_names
            }
        if isinstance(values[0], list):
            return [item for value in values for item in value]
        if values[0].ndim == 2:
            values = [torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in values]
        return torch.cat(values)

    return Rollout(**{f.name: join_field(f.name) for f in fields(Rollout)})
