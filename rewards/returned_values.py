"""What a reward function returned, checked and as arrays. Nothing that is not a reward gets past this file."""

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
from rlalign.types import BoolArray, FloatArray

_LARGEST = float(np.finfo(np.float32).max)  # what lies beyond is infinite to the learner


@dataclass(frozen=True, slots=True)
class Values:
    """One component's values of B samples.

    Attributes:
        values: float [B], NaN where absent or failed.
        absent: bool [B], the function returned None: it does not apply there.
        failed: bool [B], the function returned NaN or gave nothing at all.
        tokens: B arrays of one float per completion id (scope "token"), zeros where absent or failed; else None.
    """

    values: FloatArray
    absent: BoolArray
    failed: BoolArray
    tokens: list[FloatArray] | None = None


def same(value: float, sizes: Sequence[int], *, per_token: bool) -> Values:
    """One value for all samples; NaN: all failed. Of scope "token" it stands on the last token of each."""
    count, good = len(sizes), math.isfinite(value)
    tokens = [np.zeros(size) for size in sizes] if per_token else None
    for row in tokens or ():
        row[-1:] = value if good else 0.0
    return Values(np.full(count, value), np.zeros(count, np.bool_), np.full(count, not good), tokens)


def read(name: str, returned: Any, completions: Sequence[str], sizes: Sequence[int], *, per_token: bool) -> Values:
    """Check and convert what the function of component `name` returned for B completions of `sizes` ids.

    Raises RewardError, naming the reward, for a wrong length, a wrong type or an infinite value.
    """
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
        if not math.isnan(values[i]):
            tokens[i][:] = numbers
    absent = np.array([row is None for row in rows], np.bool_)
    return Values(values, absent, np.isnan(values) & ~absent, tokens)


def _items(name: str, returned: Any, where: str, things: str, count: int) -> list[Any]:
    items = returned.tolist() if hasattr(returned, "tolist") else returned  # numpy and torch
    if not isinstance(items, list | tuple):
        hint = " (is a return statement missing?)" if returned is None else ""
        raise RewardError(
            f"reward '{name}' returned {type(returned).__name__} for {where}{hint}: "
            f"return a list of {count} numbers, one for each of the {things}"
        )
    if len(items) != count:
        raise RewardError(
            f"reward '{name}' returned {len(items)} values for {count} {things} of {where}: return one for each, "
            "and None where there is nothing to judge"
        )
    return list(items)


def _number(name: str, value: Any, where: str) -> float:
    if hasattr(value, "item"):  # a numpy or torch scalar
        with contextlib.suppress(ValueError, RuntimeError):  # no scalar but several values: refused below
            value = value.item()
    if not isinstance(value, Real):
        raise RewardError(
            f"reward '{name}' returned {type(value).__name__} {shorten(str(value))} for {where}: return a float, "
            "or None where it does not apply"
        )
    number = float(value)
    if abs(number) > _LARGEST:  # false for NaN
        raise RewardError(
            f"reward '{name}' returned {number} for {where}: return a finite float, or None where it does not apply"
        )
    return number
