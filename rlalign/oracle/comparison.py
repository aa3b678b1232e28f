"""The comparison of an expected update with the exact gradient: four numbers and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

EXACT = 1e-9  # relative error below which a float64 sum over all completions counts as exact


@dataclass(frozen=True)
class Comparison:
    """An expected gradient g against the exact gradient `g*`.

    Attributes:
        relative_error: `|g - g*| / |g*|`.
        cosine: `<g, g*> / (|g| |g*|)`; 0 if g is 0.
        scale: `<g, g*> / |g*|²`, the length of g's projection on `g*` in units of `|g*|`.
        residual: `|g - scale · g*| / |g*|`, the part that no factor explains.
    """

    relative_error: float
    cosine: float
    scale: float
    residual: float

    @classmethod
    def of(cls, gradient: Tensor, exact: Tensor) -> Comparison:
        """Compare two gradients of one shape.

        Args:
            gradient: the expected gradient g.
            exact: the exact gradient `g*`, not 0.
        """
        g, e = gradient.flatten(), exact.flatten()
        size = float(g.norm() * e.norm())
        scale = float(g @ e / (e @ e))
        return cls(
            relative_error=float((g - e).norm() / e.norm()),
            cosine=float(g @ e) / size if size > 0 else 0.0,
            scale=scale,
            residual=float((g - scale * e).norm() / e.norm()),
        )

    @property
    def verdict(self) -> str:
        """Return "exact", "exact × factor", "zero", or "biased" with the angle to the exact gradient.

        It is exact if the relative error is below 1e-9, exact up to a factor if the residual is, and zero if the scale
        is too.
        """
        if self.relative_error < EXACT:
            return "exact"
        if self.residual < EXACT:
            return "zero" if abs(self.scale) < EXACT else f"exact × {self.scale:.4g}"
        cosine = max(-1.0, min(1.0, self.cosine))  # rounding can put it outside of acos's domain
        return f"biased, {math.degrees(math.acos(cosine)):.1f}° off"
