"""Settings that another trainer supports, and the error for the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError


class Requirement(NamedTuple):
    """A setting, its value, and the values that TRL supports."""

    setting: str
    value: Any
    supported: bool
    expected: str


def check_requirements(requirements: Sequence[Requirement], config: TrainConfig, fix: str) -> None:
    """Raise UserError for the first setting whose value TRL does not support.

    Args:
        requirements: in the order in which they are named.
        config: names the algorithm.
        fix: what to do about it.
    """
    for setting, value, supported, expected in requirements:
        if not supported:
            raise UserError(f"{setting}: expected {expected} for {config.algorithm}, got {value}; {fix}")


def one_of(names: Iterable[str]) -> str:
    """Return names as `a, b or c`."""
    *others, last = sorted(names)
    return f"{', '.join(others)} or {last}"
