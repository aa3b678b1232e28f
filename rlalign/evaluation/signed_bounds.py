"""Intervals of differences as text, with the digits that decide."""

from __future__ import annotations

_DECIMALS = 3
_MOST = 9


def decimals_of(low: float, high: float) -> int:
    """Return as many decimals as show on which side of 0 a bound lies, at least three.

    Example:
        >>> decimals_of(0.0001, 0.0005), decimals_of(-0.25, 0.5), decimals_of(float("nan"), float("nan"))
        (4, 3, 3)
    """
    return next((d for d in range(_DECIMALS, _MOST) if all(round(x, d) or not x for x in (low, high))), _MOST)


def signed_bounds(low: float, high: float) -> str:
    """Return [low, high] with signs and the decimals of `decimals_of`.

    Example:
        >>> signed_bounds(0.0002, 0.016), signed_bounds(-0.25, 0.5), signed_bounds(0.0, 0.5)
        ('[+0.0002, +0.0160]', '[-0.250, +0.500]', '[+0.000, +0.500]')
    """
    decimals = decimals_of(low, high)
    return f"[{_signed(low, decimals)}, {_signed(high, decimals)}]"


def _signed(x: float, decimals: int) -> str:
    return f"{round(x, decimals) + 0.0:+.{decimals}f}"  # + 0.0 turns -0.0 into 0.0
