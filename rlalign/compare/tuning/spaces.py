"""Search spaces of settings: `log:1e-4:1e-2`, `uniform:0:1`, `int:1:8`, `choice:4,8,16`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlalign.config.overrides import full_key
from rlalign.errors import UserError, did_you_mean
from rlalign.registry import import_optional

_MOST_COMBINATIONS = 500  # larger searches are not checked beforehand
_KINDS = ("log", "uniform", "int", "choice")


def parse_search(specs: Sequence[str]) -> dict[str, str]:
    """Return setting -> space of the words `SETTING=SPACE` of a command line; settings get their full names."""
    spaces = {}
    for spec in specs:
        key, equals, space = spec.partition("=")
        if not equals:
            raise UserError(f"--search: expected SETTING=SPACE, got '{spec}'; use learner.lr=log:1e-4:1e-2")
        spaces[full_key(key)] = space
    return spaces


def default_search(lr: float) -> dict[str, str]:
    """Return the default search: the learning rate within a factor of ten of `lr`."""
    return {"learner.lr": f"log:{lr / 10:g}:{lr * 10:g}"}


def distributions(search: Mapping[str, str]) -> dict[str, Any]:
    """Return setting -> optuna's distribution. Raises UserError for a space that cannot be parsed."""
    return {full_key(key): distribution(full_key(key), space) for key, space in search.items()}


def distribution(key: str, space: str) -> Any:
    """Return optuna's distribution of one space.

    Args:
        key: the setting, for messages.
        space: `KIND:...`.

    Raises:
        UserError: the space cannot be parsed.
    """
    optuna = import_optional("optuna.distributions", "tune")
    kind, _, rest = space.partition(":")
    if kind not in _KINDS:
        raise UserError(f"unknown kind of search '{kind}' for {key}.{did_you_mean(kind, _KINDS)}")
    if kind == "choice":
        if not all(rest.split(",")):
            raise UserError(f"search for {key}: expected choice:A,B,C, got '{space}'")
        return optuna.CategoricalDistribution(choices(space))
    number = int if kind == "int" else float
    try:
        low, high = (number(word) for word in rest.split(":"))
        if kind == "int":
            return optuna.IntDistribution(low, high)
        if not math.isfinite(high - low):
            raise ValueError("bounds must be finite")
        return optuna.FloatDistribution(low, high, log=kind == "log")
    except ValueError as error:
        raise UserError(
            f"search for {key}: expected {kind}:LOW:HIGH with LOW < HIGH, got '{space}' ({error})"
        ) from None


def choices(space: str) -> list[Any]:
    """Return the values of a space `choice:A,B,C`."""
    return [_value(word) for word in space.partition(":")[2].split(",")]


def check_values(configure: Callable[[Mapping[str, Any]], object], spaces: Mapping[str, Any]) -> None:
    """Raise UserError if a value is impossible in combination with all values of the other settings.

    All combinations are tried; a search with more than 500 of them is not checked.

    Args:
        configure: settings -> a configuration; raises UserError for impossible settings.
        spaces: setting -> optuna's distribution. Of a range, a value near each end is tried.
    """
    values_of = {key: _representatives(distribution) for key, distribution in spaces.items()}
    if math.prod(len(values) for values in values_of.values()) > _MOST_COMBINATIONS:
        return
    impossible: dict[tuple[str, Any], UserError] = {}
    possible: set[tuple[str, Any]] = set()
    for values in itertools.product(*values_of.values()):
        pairs = list(zip(values_of, values, strict=True))
        try:
            configure(dict(pairs))
            possible.update(pairs)
        except UserError as error:
            impossible |= dict.fromkeys(pairs, error)
    for (key, value), reason in impossible.items():
        if (key, value) not in possible:
            raise UserError(f"search for {key}: no run can have {value!r}: {reason}") from reason


def _representatives(distribution: Any) -> list[Any]:
    """Return all choices, or a value near each end of a range."""
    choices = getattr(distribution, "choices", None)
    if choices:
        return list(choices)
    low, high = distribution.low, distribution.high
    # The ends of a continuous range may be impossible (a learning rate of 0), and are never sampled.
    margin = (high - low) / 1000 if isinstance(low, float) else 0
    return [low + margin, high - margin]


def _value(word: str) -> Any:
    """Return a word as the integer, float or boolean that it denotes, else as text."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(word, word)
