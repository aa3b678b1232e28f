"""The first trials of a search: the default setting, then points that are spread over all spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import qmc

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.typecheck import flatten

_SPREAD = 8
"""Points of a Sobol sequence, which is balanced at powers of two."""


def first_trials(spaces: Mapping[str, Any], base: TrainConfig, seed: int) -> list[dict[str, Any]]:
    """Return the settings of the first trials, before optuna has results to learn from.

    The first one is the default setting, if it lies in the spaces, so that the best trial can be compared with it. The
    others are a scrambled Sobol sequence, because independent draws of so few trials leave parts of a range empty.

    Args:
        spaces: setting -> optuna's distribution.
        base: the configuration that all trials share.
        seed: of the scrambling.
    """
    defaults = flatten(to_dict(base))
    default = {key: defaults.get(key) for key in spaces}
    trials = [default] if all(_contains(space, default[key]) for key, space in spaces.items()) else []
    points = qmc.Sobol(len(spaces), scramble=True, rng=seed).random(_SPREAD)
    return trials + [
        {key: _value(space, float(u)) for (key, space), u in zip(spaces.items(), point, strict=True)}
        for point in points
    ]


def _contains(space: Any, value: Any) -> bool:
    if hasattr(space, "choices"):
        return value in space.choices
    return isinstance(value, int | float) and space.low <= value <= space.high


def _value(space: Any, u: float) -> Any:
    """Return the value of a space at a share u of it, 0 <= u < 1."""
    if hasattr(space, "choices"):
        return space.choices[int(u * len(space.choices))]
    if isinstance(space.low, int):
        return space.low + int(u * (space.high - space.low + 1))
    if space.log:
        return math.exp(math.log(space.low) + u * (math.log(space.high) - math.log(space.low)))
    return space.low + u * (space.high - space.low)
