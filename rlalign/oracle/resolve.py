"""The resolution of a name given to the oracle: a preset, or a user's function on one axis."""

from __future__ import annotations

from typing import Any

from rlalign.algorithms import ALGORITHMS, Algorithm, algorithm
from rlalign.errors import UserError
from rlalign.objective.registries import ADVANTAGES, BASELINES, LOSSES, TRUSTS
from rlalign.objective.spec import Objective, Trust


def resolve(spec: str) -> Algorithm:
    """Return the algorithm of a preset name, of a registered axis value, or of a user's object.

    A user's object is an Algorithm, an Objective, or a function that is a baseline, trust region, loss or advantage;
    the name of its first parameter decides which. The other axes have their defaults.

    Raises:
        UserError: the object is none of these.
    """
    if ":" not in spec:
        if spec in ALGORITHMS or spec not in [*BASELINES, *TRUSTS, *LOSSES, *ADVANTAGES]:
            return algorithm(spec)
        if spec in BASELINES:
            return Algorithm(spec, Objective(baseline=spec), "", "", "", "")
        if spec in ADVANTAGES:
            return Algorithm(spec, Objective(advantage=spec), "", "", "", "")
        if spec in TRUSTS:
            return Algorithm(spec, Objective(ratio="token", trust=Trust(spec)), "", "", "", "")
        return Algorithm(spec, Objective(loss=spec), "", "", "", "")
    item: Any = ALGORITHMS.get(spec)
    if isinstance(item, Algorithm | Objective):
        return algorithm(spec)
    if not callable(item):
        raise UserError(
            f"'{spec}': expected an objective, a baseline, a trust region, a loss or an advantage, got a "
            f"{type(item).__name__}"
        )
    has_parameters = hasattr(item, "__code__") and item.__code__.co_argcount
    first_parameter = item.__code__.co_varnames[0] if has_parameters else ""
    objectives = {
        "returns": Objective(baseline=spec),
        "x": Objective(ratio="token", trust=Trust(spec)),
        "objective": Objective(loss=spec),
        "advantages": Objective(advantage=spec),
    }
    if first_parameter not in objectives:
        raise UserError(
            f"'{spec}': expected baseline(returns, batch), trust region(x, trust), loss(objective, batch) or "
            f"advantage(advantages, batch), got a function whose first parameter is '{first_parameter}'; use these "
            "names for its parameters"
        )
    return Algorithm(spec, objectives[first_parameter], "", "", "A custom axis value.", "")
