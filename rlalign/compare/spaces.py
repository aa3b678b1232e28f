"""What a search may choose from: `log:1e-4:1e-2`, `uniform:0:1`, `int:1:8`, `choice:4,8,16`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.compare.settings import full_key
from rlalign.errors import UserError, did_you_mean

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
        return CategoricalDistribution([_value(word) for word in rest.split(",")])
    try:
        low, high = (float(x) for x in rest.split(":"))
        if kind == "int":
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=kind == "log")
    except ValueError as error:
        raise UserError(f"search '{space}' for {key}: it must be {kind}:LOW:HIGH with LOW < HIGH ({error})") from None


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(word, word)
