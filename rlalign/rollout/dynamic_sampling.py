"""Dynamic sampling (DAPO, arXiv 2503.14476): groups whose rewards are all equal teach nothing and are drawn again."""

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
    """Return bool [groups]: whether the group's valid rewards differ, so that a group baseline can learn from it."""
    ids, returns = rollout.group_ids, rollout.returns
    varied = Groups.of(ids, rollout.valid, returns.dtype).varied(returns)
    # every row of a group holds the same value, so the order in which scatter writes them does not matter
    return varied.new_zeros(int(ids.max()) + 1).scatter(0, ids, varied)


def with_signal(draw: Callable[[], Rollout], first: Rollout, *, max_draws: int) -> tuple[Rollout, list[Rollout]]:
    """A rollout of as many groups as `first`, those with different rewards before those without.

    Draws again until every group has signal or `max_draws` rollouts were made, `first` among them; what is then missing
    is filled with groups without signal, so that the batch keeps its shape. Returns it and everything that was drawn,
    which is what the policy's mean reward and its cost in tokens are read from: the chosen groups are a biased sample.
    """
    wanted = int(first.group_ids.max()) + 1
    varied = has_reward_variance(first)
    drawn, found, rest = [first], _groups(first, varied), _groups(first, ~varied)
    while len(found) < wanted and len(drawn) < max_draws:
        drawn.append(draw())
        found += _groups(drawn[-1], has_reward_variance(drawn[-1]))
    return joined([*found, *rest][:wanted]), drawn


def _groups(rollout: Rollout, chosen: Tensor) -> list[Rollout]:
    """The chosen groups (bool [groups]), each as a rollout of its own."""
    return [rows_of(rollout, rollout.group_ids == g) for g in torch.nonzero(chosen).flatten().tolist()]


def rows_of(rollout: Rollout, rows: Tensor) -> Rollout:
    """Some rows (bool [N]) of a rollout."""
    kept = torch.nonzero(rows).flatten()

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[kept]
        return {k: v[kept] for k, v in value.items()} if isinstance(value, dict) else [value[i] for i in kept.tolist()]

    return replace(rollout, **{f.name: take(getattr(rollout, f.name)) for f in fields(rollout)})


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts one after the other, groups numbered anew, padded to the widest."""
    width = max(p.tokens.shape[1] for p in parts)
    names = dict.fromkeys(name for p in parts for name in p.components)

    def wide(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]))

    def whole(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        if name == "group_ids":
            ids = [v - v.min() for v in values]
            before = [0, *accumulate(int(v.max()) + 1 for v in ids)]
            return torch.cat([v + b for v, b in zip(ids, before, strict=False)])
        if name == "components":
            blank = [torch.full((len(p),), torch.nan, dtype=torch.float64) for p in parts]
            return {n: torch.cat([v.get(n, b) for v, b in zip(values, blank, strict=True)]) for n in names}
        if isinstance(values[0], list):
            return [item for value in values for item in value]
        return torch.cat([wide(v) if v.ndim == 2 else v for v in values])

    return Rollout(**{f.name: whole(f.name) for f in fields(Rollout)})
