"""Numbers as a reader of a paper wants them: three decimals where they matter, a true minus, no false precision."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from rlalign.compare.results import Estimate, ToThreshold
from rlalign.compare.statistics import LEVEL

NONE = "–"


def number(value: float | None, *, sign: bool = False, fine: int = 3) -> str:
    """`fine` decimals below ten, fewer above."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 1e5:
        return _minus(f"{value / 1e6:.2f} M" if size >= 1e6 else f"{value / 1e3:.0f} k")
    decimals = fine if size < 10 else 1 if size < 1000 else 0
    value = round(value, decimals) + 0.0  # so that there is no −0.000
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    return _minus(text)


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`[low, high]`, a dash where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return f"[{NONE}]"
    return f"[{number(estimate.low, sign=sign)}, {number(estimate.high, sign=sign)}]"


def headed(name: str, estimate: Estimate) -> str:
    """The heading of a column, with the level of its intervals where that is less than 95 %."""
    return name if estimate.low is None or estimate.level >= LEVEL else f"{name} ({100 * estimate.level:.1f} % CI)"


def cost(found: ToThreshold, shown: Callable[[Estimate], str]) -> str:
    """What it took to reach a threshold; where no seed got there, that it takes more than all had."""
    if any(found.reached):
        return shown(found.restricted_mean)
    return f"> {number(found.restricted_mean.value)}"


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
    """A sentence with true minus signs, and per cents that stay with their numbers."""
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", sentence).replace(" %", "\u00a0%")


def _minus(text: str) -> str:
    return text.replace("-", "−")
