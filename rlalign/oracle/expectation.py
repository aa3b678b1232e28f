"""The exact expectation of an objective's gradient, as a sum over every group of completions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlalign.objective.advantages import compute_advantages
from rlalign.objective.batch import Batch
from rlalign.objective.loss import likelihood_loss, policy_loss
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
    """Return the exact expectation of the ascent direction -grad(total / count), float64 [prefixes, V].

    The batch is one group of `group_size` independent completions. Groups are summed as multisets with their
    multinomial probability, because losses do not depend on the order of rows. `compute_advantages`, `policy_loss` and,
    if regularizer.nll_coef is not 0, `likelihood_loss` compute the loss of each group, as in training.

    Args:
        objective: whose update is computed.
        mdp: the enumerated completions and rewards.
        logits: table of the policy, float64 [prefixes, V].
        group_size: completions per group, G.
        state: beta and the moving average; the state before the first step if None.
        sampler: table of the sampler, if it differs from the policy.
        **tables: further arguments of `TokenMDP.batch`: reference, second_reference, values,
            final_values, old.

    Example:
        >>> from rlalign.oracle import Comparison
        >>> mdp = TokenMDP(horizon=2)
        >>> logits = mdp.table(seed=1)
        >>> gradient = expected_gradient(Objective(baseline="group_mean"), mdp, logits, group_size=2)
        >>> Comparison.of(gradient, mdp.gradient(logits)).verdict  # (G-1)/G
        'exact × 0.5'
    """
    table = logits.detach().requires_grad_()
    expected_gain = 0 * table.sum()
    for probability, gain in _groups(objective, mdp, table, group_size, state, sampler, tables):
        expected_gain = expected_gain + probability * gain
    return torch.autograd.grad(expected_gain, table)[0]


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
    """Return the exact mean [D] and standard deviation [D] of one group's update along D directions.

    It serves statistical tests of a training path: an estimated sigma could miss rare prefixes, the exact one cannot.

    Args:
        objective: whose update is computed.
        mdp: the enumerated completions and rewards.
        logits: table of the policy, float64 [prefixes, V].
        directions: float64 [D, prefixes, V].
        group_size: completions per group, G.
        state: beta and the moving average; the state before the first step if None.
        sampler: table of the sampler, if it differs from the policy.
        **tables: further arguments of `TokenMDP.batch`: reference, second_reference, values,
            final_values, old.
    """
    table = logits.detach().requires_grad_()
    first = torch.zeros(len(directions), dtype=torch.float64)
    second = torch.zeros(len(directions), dtype=torch.float64)
    for probability, gain in _groups(objective, mdp, table, group_size, state, sampler, tables):
        # the graph of the whole MDP is shared by all groups
        gradient = torch.autograd.grad(gain, table, retain_graph=True)[0]
        projections = directions.flatten(1) @ gradient.flatten()
        first = first + probability * projections
        second = second + probability * projections.square()
    return first, (second - first.square()).sqrt()


def _groups(
    objective: Objective,
    mdp: TokenMDP,
    table: Tensor,
    group_size: int,
    state: ObjectiveState | None,
    sampler: Tensor | None,
    tables: dict[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (probability, -total/count) of every multiset of completions, except those without a row in the loss."""
    completions = mdp.batch(table, sampler=sampler, **tables)
    p = mdp.probabilities(table if sampler is None else sampler).detach()
    for rows in itertools.combinations_with_replacement(range(len(p)), group_size):
        index = torch.tensor(rows)
        # the multinomial coefficient: the number of ordered groups that are this multiset
        orders = math.factorial(group_size) / math.prod(math.factorial(n) for n in Counter(rows).values())
        group = compute_advantages(objective, completions[index], state)
        loss = policy_loss(objective, group, state, measure=False)
        if loss.count > 0:
            total = loss.total / loss.count
            if objective.regularizer.nll_coef:
                likelihood = likelihood_loss(objective, group)
                total = total + likelihood.total / likelihood.count.clamp(min=1)
            yield orders * p[index].prod(), -total


def difficulty_weight(objective: Objective, p: float, group_size: int) -> float:
    """Return c such that the expected gradient on 0/1 rewards with success probability p is c · grad p.

    ::

        c = E[A | r = 1] - E[A | r = 0]

    The other group_size - 1 rewards are binomial. A is the objective's own advantage, before aggregation.

    Args:
        objective: reads the axes of the advantage. Completions have one token.
        p: probability of reward 1, in [0, 1].
        group_size: completions per group, G.

    Example:
        Without a scale c is (G-1)/G for each p. With the group's standard deviation rare successes weigh more.

        >>> for scale in ("none", "group_std"):
        ...     objective = Objective(baseline="group_mean", scale=scale)
        ...     print(scale, *[f"{difficulty_weight(objective, p, group_size=16):.2f}" for p in (0.01, 0.1, 0.5)])
        none 0.94 0.94 0.94
        group_std 3.61 2.76 1.87
    """
    n = group_size - 1
    c = 0.0
    for k in range(n + 1):
        weight = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for own in (0.0, 1.0):
            rewards = torch.tensor([own] + [1.0] * k + [0.0] * (n - k), dtype=torch.float64)
            every = torch.ones(group_size, dtype=torch.bool)
            batch = Batch(
                action_mask=every[:, None],
                rewards=rewards,
                group_ids=torch.zeros(group_size, dtype=torch.int64),
                terminated=every,
                truncated=~every,
                max_length=1,
            )
            advantages = compute_advantages(objective, batch).need("advantages", "the difficulty weight")
            sign = 2 * own - 1
            c += sign * weight * float(advantages[0, 0])
    return c
