"""The report of the oracle: one row per algorithm, and one per placement of the KL term."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from rlalign.algorithms import Algorithm, algorithm, sampling_presets
from rlalign.errors import UserError
from rlalign.objective.spec import KL, Objective
from rlalign.objective.token_rewards import overlong_penalty
from rlalign.oracle.comparison import Comparison
from rlalign.oracle.expectation import expected_gradient
from rlalign.oracle.mdp import TokenMDP
from rlalign.oracle.resolve import resolve
from rlalign.typecheck import check_range


@dataclass(frozen=True)
class Row:
    """The expected first update of one algorithm, on policy, against the exact gradient.

    Attributes:
        algorithm: whose update it is.
        group_size: completions per group.
        graded: comparison with rewards in [0, 1].
        binary: comparison with rewards of 0 or 1.
    """

    algorithm: Algorithm
    group_size: int
    graded: Comparison
    binary: Comparison


def report(
    which: str | Iterable[str] | Objective | Algorithm = "all", *, group_size: int = 2, horizon: int = 4, seed: int = 0
) -> list[Row]:
    """Return the rows of one or several algorithms.

    The critic of objectives with values is wrong on purpose (exact values plus noise).

    Args:
        which: preset names, "all" (those that sample their own completions), an Objective, an Algorithm, or the
            `file.py:name` of an objective, baseline, trust region or loss.
        group_size: completions per group, G.
        horizon: largest number of tokens in a completion. Each more token multiplies the number of groups by about
            2^group_size.
        seed: of rewards and tables.

    Raises:
        UserError: a name is unknown, a number is below 1, or an objective is impossible or learns from recorded data.

    Example:
        >>> for row in report(["rloo", "grpo"], horizon=2):
        ...     print(row.algorithm.name, row.graded.verdict)
        rloo exact
        grpo biased, 27.2° off
    """
    check_range("group_size", group_size, least=1)
    check_range("horizon", horizon, least=1)
    if isinstance(which, Algorithm):
        algorithms = [which]
    elif isinstance(which, Objective):
        algorithms = [Algorithm("objective", which, "", "", "", "")]
    elif which == "all":
        algorithms = [algorithm(name) for name in sampling_presets()]
    else:
        algorithms = [resolve(name) for name in ([which] if isinstance(which, str) else which)]
    for item in algorithms:
        if item.teacher == "samples":
            raise UserError(
                f"'{item.name}' imitates samples of its teacher: expected an algorithm whose policy samples; its "
                "gradient is in docs/reference/algorithms.md"
            )
        if item.data:
            raise UserError(
                f"'{item.name}' learns from recorded data: expected an algorithm that samples its own completions; its "
                "optimum is in docs/reference/algorithms.md"
            )
    return [
        Row(
            item,
            group_size,
            compare(item.objective, "graded", group_size=group_size, horizon=horizon, seed=seed),
            compare(item.objective, "binary", group_size=group_size, horizon=horizon, seed=seed),
        )
        for item in algorithms
    ]


def compare(
    objective: Objective,
    rewards: Literal["graded", "binary"] = "graded",
    *,
    group_size: int = 2,
    horizon: int = 4,
    seed: int = 0,
) -> Comparison:
    """Compare an objective's expected first update, on policy, with the exact gradient.

    The exact gradient is that of E[R], with the length penalty if the objective has one, minus beta · KL(pi‖ref) if it
    has a KL term. The critic of objectives with values is wrong on purpose (exact values plus noise).

    Args:
        objective: whose update is computed.
        rewards: graded (in [0, 1]) or binary (0 or 1).
        group_size: completions per group, G.
        horizon: largest number of tokens in a completion.
        seed: of rewards and tables.

    Raises:
        UserError: the objective is invalid, or its loss is of preferences.

    Example:
        >>> compare(Objective(baseline="leave_one_out"), horizon=2).verdict
        'exact'
    """
    objective.validate(group_size=group_size)
    if objective.is_preference:
        raise UserError(f"loss {objective.loss} has no expected reward that its gradient could be compared with")
    mdp = TokenMDP(rewards=rewards, horizon=horizon, seed=seed)
    logits, reference = mdp.table(1), mdp.table(2)
    noise = mdp.table(3)[:, 0]
    gradient = expected_gradient(
        objective,
        mdp,
        logits,
        group_size=group_size,
        reference=reference if objective.needs_reference else None,
        values=mdp.state_values(logits) + 0.3 * noise if objective.needs_values else None,
    )
    beta = objective.kl.coef if objective.needs_reference else 0.0
    if objective.filter.overlong:
        # the penalty is part of the maximand; added after the expectation, which adds it too
        filters = objective.filter
        lengths = mdp.mask.sum(1).double()
        mdp.rewards = mdp.rewards + overlong_penalty(lengths, mdp.horizon, filters.overlong, filters.overlong_penalty)
    return Comparison.of(gradient, mdp.gradient(logits, reference, beta))


def kl_suite(*, horizon: int = 4, seed: int = 0) -> dict[str, tuple[Comparison, Comparison]]:
    """Compare every placement of the KL term with the gradients of both KLs, at zero reward.

    The terms are k1, k2 and k3 in the reward, and in the loss at each level with each importance ratio.

    Args:
        horizon: largest number of tokens in a completion.
        seed: of the tables of policy and reference.

    Returns:
        Name of the estimate -> (comparison with -grad KL(pi‖ref), comparison with -grad KL(ref‖pi)).
    """
    mdp = TokenMDP(horizon=horizon, seed=seed)
    mdp.rewards = torch.zeros_like(mdp.rewards)
    logits, reference = mdp.table(1), mdp.table(2)
    forward = mdp.gradient(logits, reference, 1.0)
    table = logits.clone().requires_grad_()
    backward = -torch.autograd.grad(mdp.kl(reference, table), table)[0]
    estimators: tuple[Literal["k1", "k2", "k3"], ...] = ("k1", "k2", "k3")
    levels: tuple[Literal["token", "sequence"], ...] = ("token", "sequence")
    weights: tuple[Literal["none", "token", "sequence"], ...] = ("none", "token", "sequence")
    terms = [KL("reward", 1.0, estimator) for estimator in estimators]
    terms += [KL("loss", 1.0, *choice) for choice in itertools.product(estimators, levels, weights)]
    comparisons = {}
    for kl in terms:
        g = expected_gradient(Objective(kl=kl), mdp, logits, group_size=1, reference=reference)
        name = f"{kl.estimator} in the {kl.where}"
        name += f", {kl.level}" if kl.where == "loss" else ""
        name += f", × {kl.importance} ratio" if kl.importance != "none" else ""
        comparisons[name] = (Comparison.of(g, forward), Comparison.of(g, backward))
    return comparisons


def text(rows: Sequence[Row]) -> str:
    """Return the report as a plain-text table."""
    lines = [f"{'algorithm':24} {'rewards in [0, 1]':^38}   {'rewards 0 or 1':^38}"]
    lines.append(f"{'':24} {'rel. error':>10} {'cosine':>8} {'verdict':<18}   {'rel. error':>10} {'cosine':>8} verdict")
    for row in rows:
        parts = [f"{c.relative_error:10.2e} {c.cosine:8.5f} {c.verdict:<18}" for c in (row.graded, row.binary)]
        lines.append(f"{row.algorithm.name:24} {'   '.join(parts)}".rstrip())
    return "\n".join(lines)
