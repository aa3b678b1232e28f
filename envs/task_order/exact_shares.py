"""A sequence of choices whose counts follow their shares within 1 at every length: the quota method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from rlalign.errors import UserError

_UNIT = 2**50  # shares are whole multiples of 1 / _UNIT, so that their sums are exact and their states are integers


class ExactShares:
    """Chooses one of m parts at a time, so that each count stays within 1 of the sum of its shares.

    With T_i the sum of the shares of part i over the places so far, this one included, and c_i its count, a part is
    eligible if c_i < T_i. The eligible part that would be the first to fall a whole place behind is chosen: the one
    with the smallest (c_i + 1 - T_i) / share_i. With constant shares this is the quota method of Balinski and Young,
    "The quota method of apportionment", American Mathematical Monthly 82, 1975: abs(c_i - N · share_i) < 1 at every
    length N. With shares that change, c_i < T_i + 1 holds; a part whose share is 0 is never chosen.

    Args:
        m: number of parts.

    Example:
        >>> shares = ExactShares(2)
        >>> "".join("ab"[shares.take([0.75, 0.25])] for _ in range(8))
        'aaabaaab'
    """

    def __init__(self, m: int) -> None:
        self._targets = [0] * m  # T_i · _UNIT
        self._counts = [0] * m

    def take(self, weights: Sequence[float]) -> int:
        """Return the number of the part at the next place.

        Args:
            weights: of the parts at this place, at least 0; shares are proportional to them.

        Raises:
            UserError: no weight is above 0.
        """
        units = to_units(weights)
        self._targets = [target + unit for target, unit in zip(self._targets, units, strict=True)]
        behind = [target - count * _UNIT for target, count in zip(self._targets, self._counts, strict=True)]
        active = [i for i, unit in enumerate(units) if unit]
        eligible = [i for i in active if behind[i] > 0]
        if eligible:
            chosen = min(eligible, key=lambda i: Fraction(_UNIT - behind[i], units[i]))
        else:  # parts whose share has ended are ahead of their count
            chosen = max(active, key=lambda i: behind[i])
        self._counts[chosen] += 1
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of shares and the counts, as integers."""
        return {"targets": list(self._targets), "counts": list(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._targets = [int(target) for target in state["targets"]]
        self._counts = [int(count) for count in state["counts"]]


def to_units(weights: Sequence[float]) -> list[int]:
    """Return shares that are proportional to weights, as integers whose sum is exactly 2^50.

    Rounded down, then the largest remainders are rounded up. A weight above 0 has a share above 0.

    Raises:
        UserError: no weight is above 0.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    if not total:
        raise UserError("shares: expected a weight above 0, got none; use a weight above 0 at every step")
    scaled = [weight / total * _UNIT for weight in exact]
    units = [max(int(value), 1) if value else 0 for value in scaled]
    by_remainder = sorted(range(len(units)), key=lambda i: (units[i] - scaled[i], i))
    missing = _UNIT - sum(units)
    for i in by_remainder[: max(missing, 0)]:
        units[i] += 1
    units[max(range(len(units)), key=lambda i: units[i])] += min(missing, 0)  # shares that were raised to 1
    return units
