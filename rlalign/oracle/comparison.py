"""An expected update beside the exact gradient, in three numbers and a word."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

EXACT = 1e-9


@dataclass(frozen=True)
class Comparison:
    """An expected gradient against the exact one: see the module's head. `residual` is what no factor explains."""

    relative_error: float
    cosine: float
    scale: float
    residual: float

    @classmethod
    def of(cls, gradient: Tensor, exact: Tensor) -> Comparison:
        """Compare two gradients of one shape."""
        g, e = gradient.flatten(), exact.flatten()
        size, scale = float(g.norm() * e.norm()), float(g @ e / (e @ e))
        return cls(
            relative_error=float((g - e).norm() / e.norm()),
            cosine=float(g @ e) / size if size > 0 else 0.0,
            scale=scale,
            residual=float((g - scale * e).norm() / e.norm()),
        )

    @property
    def verdict(self) -> str:
        """exact, exact up to a factor, zero, or biased with its angle."""
        if self.relative_error < EXACT:
            return "exact"
        if self.residual < EXACT:
            return "zero" if abs(self.scale) < EXACT else f"exact × {self.scale:.4g}"
        return f"biased, {math.degrees(math.acos(max(-1.0, min(1.0, self.cosine)))):.1f}° off"
