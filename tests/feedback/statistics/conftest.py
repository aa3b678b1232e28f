"""Votes as arrays: from columns, and drawn from Davidson's model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN, Judgments


def pairs(
    outcome: Sequence[int] | np.ndarray, *, policy: Any = (0, 1), group: Any = None, person: Any = None,
    left: Any = True, policies: int | None = None, people: int | None = None, **changes: Any,
) -> Judgments:  # fmt: skip
    """Return pairs of the given outcomes for the first policy; other columns are numbers for all or arrays."""
    outcome = np.asarray(outcome, np.int64)
    n = len(outcome)
    policy = np.broadcast_to(np.asarray(policy), (n, 2)).copy()
    group = np.arange(n) if group is None else np.asarray(group)
    person = np.zeros(n, int) if person is None else np.asarray(person)
    on_left = np.broadcast_to(np.asarray(left), n)
    place = np.where(on_left, 0, 1)
    built = Judgments(
        kind="pair", policies=tuple("abcdefghij"[: policies or int(policy.max(initial=1)) + 1]),
        people=tuple(f"p{i}" for i in range(people or int(person.max(initial=0)) + 1)), scales=(), group=group,
        item=group.copy(), person=person, policy=policy, place=np.stack([place, 1 - place], 1), outcome=outcome,
        ranks=np.zeros((n, 2), int), ratings=np.zeros((n, 0), int), length=np.full((n, 2), 100),
        markdown=np.zeros((n, 2, 3), int), seconds=np.full(n, 10.0), gold=np.zeros(n, bool), repeat_of=np.full(n, -1),
        right=np.full(n, -1), probability=np.ones(n),
    )  # fmt: skip
    return dataclasses.replace(built, **changes)


def draw(
    seed: int, items: int, *, strengths: Sequence[float] = (0.3, 0.0), people: int = 8, votes: int = 3,
    ties: float = 0.5, left: float = 0.0, length: float = 0.0, prompt_sd: float = 0.0, person_sd: float = 0.0,
) -> Judgments:  # fmt: skip
    """Return votes on items of two policies, drawn from Davidson's model with effects of sides, lengths and people."""
    rng = np.random.default_rng(seed)
    theta = np.asarray(strengths)
    policy = np.sort(np.argsort(rng.random((items, len(theta))), axis=1)[:, :2], axis=1)
    item = np.repeat(np.arange(items), votes)
    person = np.argsort(rng.random((items, people)), axis=1)[:, :votes].ravel()
    on_left = rng.random(len(item)) < 0.5
    lengths = rng.integers(100, 1000, (items, 2))
    relative = (lengths[:, 0] - lengths[:, 1]) / lengths.sum(1)
    x = theta[policy[:, 0]] - theta[policy[:, 1]] + prompt_sd * rng.normal(size=items)
    x = (x + length * relative / relative.std())[item] + left * np.where(on_left, 1, -1)
    x = x + person_sd * rng.normal(size=people)[person]
    utility = np.stack([-x / 2, np.full(len(x), np.log(ties) if ties else -np.inf), x / 2], 1)
    choice = (utility + rng.gumbel(size=utility.shape)).argmax(1)
    outcome = np.array([LOSS, TIE, WIN])[choice]
    return pairs(
        outcome, policy=policy[item], group=item, person=person, left=on_left, policies=len(theta), people=people,
        length=lengths[item],
    )  # fmt: skip
