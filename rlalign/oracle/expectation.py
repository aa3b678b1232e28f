"""The exact expectation of an objective's gradient: the sum over every group of completions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlalign.objective.batch import Batch
from rlalign.objective.loss import advantages, likelihood_loss, policy_loss
from rlalign.objective.spec import Objective
from rlalign.objective.state import ObjectiveState
from rlalign.oracle.mdp import TokenMDP


def expected_gradient(
    objective: Objective,
    mdp: TokenMDP,
    logits: Tensor,
    *,
    group_size: int = 2,
    state: ObjectiveState | None = None,
    sampler: Tensor | None = None,
    **tables: Any,
) -> Tensor:
    """Exact expectation of the ascent direction -grad(total / count) over all groups of completions, [prefixes, V].

    The batch is one group of `group_size` independent completions. Groups are summed as multisets with their
    multinomial probability: losses do not depend on the order of rows. `tables` go to `TokenMDP.batch`.
    """
    at = logits.detach().requires_grad_()
    goal = 0 * at.sum()
    for p, gain in _groups(objective, mdp, at, group_size, state, sampler, tables):
        goal = goal + p * gain
    return torch.autograd.grad(goal, at)[0]


def projected_moments(
    objective: Objective,
    mdp: TokenMDP,
    logits: Tensor,
    directions: Tensor,
    *,
    group_size: int = 2,
    state: ObjectiveState | None = None,
    sampler: Tensor | None = None,
    **tables: Any,
) -> tuple[Tensor, Tensor]:
    """Exact mean [D] and standard deviation [D] of one group's update along directions [D, prefixes, V].

    For statistical tests of a training path: with the exact sigma, rare prefixes cannot fool the test.
    """
    at = logits.detach().requires_grad_()
    first, second = torch.zeros(2, len(directions), dtype=torch.float64)
    for p, gain in _groups(objective, mdp, at, group_size, state, sampler, tables):
        along = directions.flatten(1) @ torch.autograd.grad(gain, at, retain_graph=True)[0].flatten()
        first, second = first + p * along, second + p * along.square()
    return first, (second - first.square()).sqrt()


def _groups(
    objective: Objective,
    mdp: TokenMDP,
    at: Tensor,
    group_size: int,
    state: ObjectiveState | None,
    sampler: Tensor | None,
    tables: dict[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """(probability, -total/count) of every multiset of completions; those that leave no row in the loss are skipped."""
    everything = mdp.batch(at, sampler=sampler, **tables)
    p = mdp.probabilities(at if sampler is None else sampler).detach()
    for rows in itertools.combinations_with_replacement(range(len(p)), group_size):
        index = torch.tensor(rows)
        orders = math.factorial(group_size) / math.prod(math.factorial(n) for n in Counter(rows).values())
        group = advantages(objective, everything[index], state)
        loss = policy_loss(objective, group, state, measure=False)
        if loss.count > 0:
            total = loss.total / loss.count
            if objective.regularizer.nll_coef:
                likely = likelihood_loss(objective, group)
                total = total + likely.total / likely.count.clamp(min=1)
            yield orders * p[index].prod(), -total


def difficulty_weight(objective: Objective, p: float, group_size: int) -> float:
    """c such that on 0/1 rewards of success probability p the expected gradient is c · grad p (before aggregation).

    c = E[A | r = 1] - E[A | r = 0], the other group_size - 1 rewards binomial; the advantages are the objective's own.
    """
    n, c = group_size - 1, 0.0
    for k in range(n + 1):
        weight = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for own in (0.0, 1.0):
            rewards = torch.tensor([own] + [1.0] * k + [0.0] * (n - k), dtype=torch.float64)
            one = torch.ones(group_size, dtype=torch.bool)
            batch = Batch(
                action_mask=one[:, None],
                rewards=rewards,
                group_ids=torch.zeros(group_size, dtype=torch.int64),
                terminated=one,
                truncated=~one,
                max_length=1,
            )
            c += (2 * own - 1) * weight * float(advantages(objective, batch).need("advantages", "c")[0, 0])
    return c
