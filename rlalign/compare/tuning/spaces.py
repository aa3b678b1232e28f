"""What a search may choose from: `log:1e-4:1e-2`, `uniform:0:1`, `int:1:8`, `choice:4,8,16`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlalign.config.overrides import full_key
from rlalign.errors import UserError, did_you_mean

_MOST = 500  # combinations that are tried beforehand
_KINDS = ("log", "uniform", "int", "choice")


def parse_search(specs: Sequence[str]) -> dict[str, str]:
    """`KEY=SPACE` words of a command line as a mapping of full keys."""
    found = {}
    for spec in specs:
        key, equals, space = spec.partition("=")
        if not equals:
            raise UserError(f"--search '{spec}' is no SETTING=SPACE: write learner.lr=log:1e-4:1e-2")
        found[full_key(key)] = space
    return found


def default_search(lr: float) -> dict[str, str]:
    """The learning rate within a factor of ten of where it is."""
    return {"learner.lr": f"log:{lr / 10:g}:{lr * 10:g}"}


def distributions(search: Mapping[str, str]) -> dict[str, Any]:
    """Optuna's distributions of a search. Raises UserError naming what cannot be read."""
    return {full_key(key): distribution(full_key(key), space) for key, space in search.items()}


def distribution(key: str, space: str) -> Any:
    """One of optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kind, _, rest = space.partition(":")
    if kind not in _KINDS:
        raise UserError(f"unknown kind of search '{kind}' for {key}.{did_you_mean(kind, _KINDS)}")
    if kind == "choice":
        if not all(rest.split(",")):
            raise UserError(f"search '{space}' for {key}: it must be choice:A,B,C")
        return CategoricalDistribution(choices(space))
    try:
        low, high = ((int if kind == "int" else float)(x) for x in rest.split(":"))
        if kind == "int":
            return IntDistribution(low, high)
        if not math.isfinite(high - low):
            raise ValueError("bounds must be finite")
        return FloatDistribution(low, high, log=kind == "log")
    except ValueError as error:
        raise UserError(f"search '{space}' for {key}: it must be {kind}:LOW:HIGH with LOW < HIGH ({error})") from None


def choices(space: str) -> list[Any]:
    """The values of a space `choice:A,B,C`."""
    return [_value(word) for word in space.partition(":")[2].split(",")]


def check_values(configure: Callable[[Mapping[str, Any]], object], spaces: Mapping[str, Any]) -> None:
    """Refuse a value that no run can have, whatever the others are. Raises UserError.

    Args:
        configure: settings -> a configuration; raises UserError for impossible ones.
        spaces: setting -> optuna's distribution; of a range, values near its ends are tried.
    """
    tried = {key: _some(d) for key, d in spaces.items()}
    if math.prod(len(values) for values in tried.values()) > _MOST:
        return
    wrong: dict[tuple[str, Any], UserError] = {}
    fine: set[tuple[str, Any]] = set()
    for values in itertools.product(*tried.values()):
        pairs = list(zip(tried, values, strict=True))
        try:
            configure(dict(pairs))
            fine.update(pairs)
        except UserError as error:
            wrong |= dict.fromkeys(pairs, error)
    for (key, value), reason in wrong.items():
        if (key, value) not in fine:
            raise UserError(f"search for {key}: no run can have {value!r}: {reason}") from reason


def _some(distribution: Any) -> list[Any]:
    if choices := getattr(distribution, "choices", None):
        return list(choices)
    low, high = distribution.low, distribution.high
    inside = (high - low) / 1000 if isinstance(low, float) else 0  # an end may be excluded, and is never drawn
    return [low + inside, high - inside]


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(word, word)
