"""Numbers as a reader of a paper wants them: three decimals where they matter, a true minus, no false precision."""

from __future__ import annotations

import math
import re

from rlalign.compare.results.schema import Estimate

NONE = "–"


def number(value: float | None, *, sign: bool = False, fine: int = 3, like: float | None = None) -> str:
    """`fine` decimals below ten, fewer above; `like`: in the unit and with the decimals that suit this one."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value if like is None else like)
    unit, letter = (1e6, "\u00a0M") if size >= 1e6 else (1e3, "\u00a0k") if size >= 1e5 else (1.0, "")
    decimals = (2 if size >= 1e6 else 0) if letter else fine if size < 10 else 1 if size < 1000 else 0
    shown = round(value / unit, decimals) + 0.0  # so that there is no −0.000
    return _minus(f"{shown:+.{decimals}f}" if sign else f"{shown:.{decimals}f}") + letter


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`[low, high]` with the decimals of the value, a dash where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return f"[{NONE}]"
    low, high = (number(edge, sign=sign, like=estimate.value) for edge in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def level(estimate: Estimate) -> str:
    """What an interval says of itself: `95 % CI`, or less where it covers less; empty without one."""
    return "" if estimate.low is None else f"{round(100 * estimate.level, 1):g} % CI"


def p_value(p: float | None) -> str:
    """Three decimals, or below which power of ten."""
    if p is None or not math.isfinite(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tick(value: float) -> str:
    """The label of an axis: as short as it can be."""
    size = abs(value)
    if size >= 1e6:
        return _minus(f"{value / 1e6:g}M")
    if size >= 1e3:
        return _minus(f"{value / 1e3:g}k")
    return _minus(f"{value:.6g}")


def seconds(value: float) -> str:
    """A duration: 42 s, 3.5 min, 2.1 h."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def typeset(sentence: str) -> str:
    """A sentence with true minus signs and apostrophes, and per cents that stay with their numbers."""
    signs = re.sub(r"(?<![\w.)])-(?=\d)", "−", sentence)
    return re.sub(r"(?<=\w)'(?=\w)", "’", signs).replace(" %", "\u00a0%")


def _minus(text: str) -> str:
    return text.replace("-", "−")
