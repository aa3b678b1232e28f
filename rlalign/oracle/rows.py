"""What the oracle says of algorithms, and of every way to put the KL in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from rlalign.algorithms import ALGORITHMS, Algorithm, algorithm
from rlalign.errors import UserError
from rlalign.objective.shaping import overlong
from rlalign.objective.spec import KL, Objective
from rlalign.oracle.comparison import Comparison
from rlalign.oracle.expectation import expected_gradient
from rlalign.oracle.mdp import TokenMDP
from rlalign.oracle.named import resolve


@dataclass(frozen=True)
class Row:
    """What the oracle says of one algorithm, on policy: with rewards in [0, 1] and with 0/1 rewards."""

    algorithm: Algorithm
    group_size: int
    graded: Comparison
    binary: Comparison


def report(
    which: str | Iterable[str] | Objective = "all", *, group_size: int = 2, horizon: int = 4, seed: int = 0
) -> list[Row]:
    """Rows for preset names, `all`, an Objective, or the `file.py:name` of an objective, baseline, trust or loss.

    The critic of objectives with values is wrong on purpose (exact values plus noise).
    """
    for name, value in (("group_size", group_size), ("horizon", horizon)):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if isinstance(which, Objective):
        chosen = [Algorithm("objective", which, "", "", "", "")]
    elif which == "all":
        chosen = [algorithm(name) for name in ALGORITHMS]
    else:
        chosen = [resolve(name) for name in ([which] if isinstance(which, str) else which)]
    return [
        Row(
            item,
            group_size,
            compare(item.objective, "graded", group_size=group_size, horizon=horizon, seed=seed),
            compare(item.objective, "binary", group_size=group_size, horizon=horizon, seed=seed),
        )
        for item in chosen
    ]


def compare(
    objective: Objective,
    rewards: Literal["graded", "binary"] = "graded",
    *,
    group_size: int = 2,
    horizon: int = 4,
    seed: int = 0,
) -> Comparison:
    """An objective's expected first update, on policy, against the exact gradient."""
    objective.validate(group_size=group_size)
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
        d, length = objective.filter, mdp.mask.sum(1).double()
        mdp.rewards = mdp.rewards + overlong(length, mdp.horizon, d.overlong, d.overlong_penalty)
    return Comparison.of(gradient, mdp.gradient(logits, reference, beta))


def kl_suite(*, horizon: int = 4, seed: int = 0) -> dict[str, tuple[Comparison, Comparison]]:
    """Every way to put the KL in: name -> (against -grad KL(pi‖ref), against -grad KL(ref‖pi)), with zero reward."""
    mdp = TokenMDP(horizon=horizon, seed=seed)
    mdp.rewards = torch.zeros_like(mdp.rewards)
    logits, reference = mdp.table(1), mdp.table(2)
    forward = mdp.gradient(logits, reference, 1.0)
    at = logits.clone().requires_grad_()
    backward = -torch.autograd.grad(mdp.kl(reference, at), at)[0]
    ways = [KL("reward", 1.0, k) for k in ("k1", "k2", "k3")]
    ways += [
        KL("loss", 1.0, k, level, weight)
        for k in ("k1", "k2", "k3")
        for level in ("token", "sequence")
        for weight in ("none", "token", "sequence")
    ]
    out = {}
    for kl in ways:
        g = expected_gradient(Objective(kl=kl), mdp, logits, group_size=1, reference=reference)
        name = f"{kl.estimator} in the {kl.where}"
        name += f", {kl.level}" if kl.where == "loss" else ""
        name += f", × {kl.importance} ratio" if kl.importance != "none" else ""
        out[name] = (Comparison.of(g, forward), Comparison.of(g, backward))
    return out


def text(rows: Sequence[Row]) -> str:
    """The report as a plain table."""
    lines = [f"{'algorithm':24} {'rewards in [0, 1]':^38}   {'rewards 0 or 1':^38}"]
    lines.append(f"{'':24} {'rel. error':>10} {'cosine':>8} {'verdict':<18}   {'rel. error':>10} {'cosine':>8} verdict")
    for row in rows:
        parts = [f"{c.relative_error:10.2e} {c.cosine:8.5f} {c.verdict:<18}" for c in (row.graded, row.binary)]
        lines.append(f"{row.algorithm.name:24} {'   '.join(parts)}".rstrip())
    return "\n".join(lines)
