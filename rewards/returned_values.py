"""Checks of the values that a reward function returned, and their conversion to arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from rlalign.errors import RewardError
from rlalign.rewards.text import shorten
from rlalign.rewards.worker_process import describe_error
from rlalign.types import BoolArray, FloatArray

_LARGEST = float(np.finfo(np.float32).max)  # the learner uses float32, where larger values are infinite


@dataclass(frozen=True, slots=True)
class ComponentValues:
    """One component's values of B samples.

    Attributes:
        values: float [B], NaN where absent or failed.
        absent: bool [B], True where the function returned None: it does not apply.
        failed: bool [B], True where the function returned NaN or no result.
        tokens: B arrays of one float per completion id (scope "token"), zeros where absent or failed; else None.
    """

    values: FloatArray
    absent: BoolArray
    failed: BoolArray
    tokens: list[FloatArray] | None = None


def constant_values(value: float, sizes: Sequence[int], *, per_token: bool) -> ComponentValues:
    """Return one value for all samples.

    Args:
        value: the value; NaN marks all samples as failed.
        sizes: number of completion ids per sample.
        per_token: scope "token"; the value is placed on the last token of each sample.
    """
    count = len(sizes)
    finite = math.isfinite(value)
    tokens = [np.zeros(size) for size in sizes] if per_token else None
    for row in tokens or ():
        row[-1:] = value if finite else 0.0  # the slice does nothing for a completion without tokens
    return ComponentValues(np.full(count, value), np.zeros(count, np.bool_), np.full(count, not finite), tokens)


def parse_returned(
    name: str, returned: Any, completions: Sequence[str], sizes: Sequence[int], *, per_token: bool
) -> ComponentValues:
    """Check and convert the result of a reward function.

    Args:
        name: component name, for messages.
        returned: result of the function.
        completions: B texts, for messages.
        sizes: number of completion ids per sample.
        per_token: scope "token": one list of floats per sample.

    Raises:
        RewardError: wrong length, wrong type, an infinite value, or an object whose methods raise. The message names
            the reward.
    """
    try:
        return _parse(name, returned, completions, sizes, per_token)
    except RewardError:
        raise
    except Exception as error:  # a method of a returned object, such as tolist or __float__
        raise RewardError(
            f"reward '{name}': expected numbers, got objects that raise {describe_error(error)} when they are read; "
            "use return [float(...), ...]"
        ) from error


def _parse(
    name: str, returned: Any, completions: Sequence[str], sizes: Sequence[int], per_token: bool
) -> ComponentValues:
    rows = _items(name, returned, "the batch", "completions", len(completions))
    values = np.full(len(rows), np.nan)
    tokens = [np.zeros(size) for size in sizes] if per_token else None
    for i, row in enumerate(rows):
        if row is None:
            continue
        where = f"sample {i} ({shorten(completions[i])})"
        if tokens is None:
            values[i] = _number(name, row, where)
            continue
        numbers = [_number(name, x, where) for x in _items(name, row, where, "completion ids", sizes[i])]
        values[i] = _number(name, sum(numbers), where)
        if not math.isnan(values[i]):  # tokens of a failed sample stay 0, so that NaN does not reach the learner
            tokens[i][:] = numbers
    absent = np.array([row is None for row in rows], np.bool_)
    return ComponentValues(values, absent, np.isnan(values) & ~absent, tokens)


def _items(name: str, returned: Any, where: str, unit: str, count: int) -> list[Any]:
    items = returned.tolist() if hasattr(returned, "tolist") else returned  # numpy and torch
    if not isinstance(items, list | tuple):
        hint = " (is a return statement missing?)" if returned is None else ""
        if hasattr(returned, "__len__"):  # of a tensor without dimensions it raises
            with contextlib.suppress(TypeError):
                hint = f" of length {len(returned)}"
        raise RewardError(
            f"reward '{name}': expected a list of {count} numbers, one for each of the {unit} of {where}, "
            f"got {type(returned).__name__}{hint}; use return [...]"
        )
    if len(items) != count:
        raise RewardError(
            f"reward '{name}': expected {count} values for the {unit} of {where}, got {len(items)}; "
            "use None where the reward does not apply"
        )
    return list(items)


def _number(name: str, value: Any, where: str) -> float:
    if hasattr(value, "item"):  # a numpy or torch scalar
        with contextlib.suppress(ValueError, RuntimeError):  # an array of several values is refused below
            value = value.item()
    if not isinstance(value, Real):
        raise RewardError(
            f"reward '{name}': expected a float for {where}, got {type(value).__name__} {shorten(str(value))}; "
            "use None where the reward does not apply"
        )
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction beyond the range of a float
        number = math.inf if value > 0 else -math.inf  # type: ignore[operator]  # a Real is ordered
    if abs(number) > _LARGEST:  # false for NaN
        raise RewardError(
            f"reward '{name}': expected a finite float for {where}, got {number}; "
            "use None where the reward does not apply"
        )
    return number
