"""What a user names for the oracle: a preset, or a function of their own on one axis."""

from __future__ import annotations

from typing import Any

from rlalign.algorithms import ALGORITHMS, Algorithm, algorithm
from rlalign.errors import UserError
from rlalign.objective.registries import BASELINES, LOSSES, TRUSTS
from rlalign.objective.spec import Objective, Trust


def resolve(spec: str) -> Algorithm:
    """A preset, or a user's own: an Algorithm, an Objective, or a function that is a baseline, trust region or loss."""
    if ":" not in spec:
        if spec in ALGORITHMS or spec not in [*BASELINES, *TRUSTS, *LOSSES]:
            return algorithm(spec)
        if spec in BASELINES:
            return Algorithm(spec, Objective(baseline=spec), "", "", "", "")
        if spec in TRUSTS:
            return Algorithm(spec, Objective(ratio="token", trust=Trust(spec)), "", "", "", "")
        return Algorithm(spec, Objective(loss=spec), "", "", "", "")
    found: Any = ALGORITHMS.get(spec)
    if isinstance(found, Algorithm | Objective):
        return algorithm(spec)
    if not callable(found):
        raise UserError(
            f"'{spec}' is a {type(found).__name__}: give an objective, a baseline, a trust region or a loss"
        )
    first = found.__code__.co_varnames[0] if hasattr(found, "__code__") and found.__code__.co_argcount else ""
    made = {
        "returns": Objective(baseline=spec),
        "x": Objective(ratio="token", trust=Trust(spec)),
        "objective": Objective(loss=spec),
    }
    if first not in made:
        raise UserError(
            f"'{spec}' is none of baseline(returns, batch), trust region(x, trust), loss(objective, batch): "
            "name its parameters so"
        )
    return Algorithm(spec, made[first], "", "", "An axis value of your own.", "")
