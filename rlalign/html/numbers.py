"""Numbers as text, as in a paper: three decimals below ten, true minus signs, no false precision."""

from __future__ import annotations

import math
import re
from typing import Protocol

MISSING = "–"
_SPACE = "\u00a0"  # no line break between a number and its unit


class Estimate(Protocol):
    """A number with its confidence interval; None where it is missing."""

    @property
    def value(self) -> float | None:
        """The number."""

    @property
    def low(self) -> float | None:
        """Lower bound."""

    @property
    def high(self) -> float | None:
        """Upper bound."""

    @property
    def level(self) -> float:
        """Nominal coverage."""


def number(value: float | None, *, sign: bool = False, decimals: int = 3, like: float | None = None) -> str:
    """Return a number as text; a dash for None, NaN and infinities.

    Args:
        value: the number.
        sign: write a plus sign too.
        decimals: below ten; larger numbers have one decimal, from 1000 none, from 100 000 the unit k, from a million M.
        like: use the unit and decimals of this number.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value if like is None else like)
    unit, suffix, places = _scale(size, decimals)
    rounded = round(value / unit, places) + 0.0  # + 0.0 turns -0.0 into 0.0
    return _minus(f"{rounded:+.{places}f}" if sign else f"{rounded:.{places}f}") + suffix


def _scale(size: float, decimals: int) -> tuple[float, str, int]:
    """Return the unit by which a number of this size is divided, its suffix, and the decimals."""
    if size >= 1e6:
        return 1e6, f"{_SPACE}M", 2
    if size >= 1e5:
        return 1e3, f"{_SPACE}k", 0
    if size >= 1000:
        return 1.0, "", 0
    return 1.0, "", decimals if size < 10 else 1


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Return `[low, high]` with the decimals of the value, or `[–]` without an interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return f"[{MISSING}]"
    low = number(estimate.low, sign=sign, like=estimate.value)
    high = number(estimate.high, sign=sign, like=estimate.value)
    return f"[{low}, {high}]"


def level(estimate: Estimate) -> str:
    """Return the nominal coverage of an interval, such as `95 % CI`; empty without an interval."""
    return "" if estimate.low is None else f"{round(100 * estimate.level, 1):g} % CI"


def p_value(p: float | None) -> str:
    """Return a p-value with three decimals, or `< 0.001`."""
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tick(value: float) -> str:
    """Return the label of an axis tick, as short as possible."""
    size = abs(value)
    if size >= 1e6:
        return _minus(f"{value / 1e6:g}M")
    if size >= 1e3:
        return _minus(f"{value / 1e3:g}k")
    return _minus(f"{value:.6g}")


def seconds(value: float) -> str:
    """Return a duration as text: 42 s, 3.5 min, 2.1 h."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def typeset(sentence: str) -> str:
    """Return a sentence with true minus signs, typographic apostrophes, and no line break before a percent sign."""
    # a minus sign precedes a digit and does not follow a word, a number or a bracket, as a hyphen or a range does
    signs = re.sub(r"(?<![\w.)])-(?=\d)", "−", sentence)
    return re.sub(r"(?<=\w)'(?=\w)", "’", signs).replace(" %", f"{_SPACE}%")


def _minus(text: str) -> str:
    return text.replace("-", "−")
