"""Sums, means and spreads over the samples of one prompt, in which only valid rows vote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows sorted into groups.

    Attributes:
        index: int64 [N], the group of each row, 0 … K-1.
        in_baseline: float [N], 1 where the row votes.
        num: K.
    """

    index: Tensor
    in_baseline: Tensor
    num: int

    @classmethod
    def of(cls, group_ids: Tensor, valid: Tensor, dtype: torch.dtype) -> Groups:
        """Groups of equal ids (int64 [N]); rows with valid (bool [N]) false do not vote."""
        _, index = torch.unique(group_ids, return_inverse=True)
        return cls(index, valid.to(dtype), int(index.max()) + 1 if len(index) else 0)

    def sum(self, x: Tensor) -> Tensor:
        """Σ of x [N] over the in_baseline of each row's group, [N]."""
        return x.new_zeros(self.num).index_add(0, self.index, x * self.in_baseline)[self.index]

    def count(self) -> Tensor:
        """Voters in each row's group, [N]."""
        return self.sum(torch.ones_like(self.in_baseline))

    def mean(self, x: Tensor) -> Tensor:
        """Mean of x [N] over each row's group, [N]; exactly x where all x are equal, 0 for a group without in_baseline."""
        low = self.low(x)
        return low + self.sum(x - low) / self.count().clamp(min=1)

    def others(self, x: Tensor) -> Tensor:
        """Mean of x [N] over the row's group without the row, [N]; x itself for a row alone."""
        low, count = self.low(x), self.count()
        rest = low + (self.sum(x - low) - (x - low)) / (count - 1).clamp(min=1)
        return torch.where(count > 1, rest, x)

    def std(self, x: Tensor) -> Tensor:
        """Unbiased standard deviation of x [N] (divisor n-1) in two passes, [N]; exactly 0 where all x are equal."""
        return (self.sum((x - self.mean(x)).square()) / (self.count() - 1).clamp(min=1)).sqrt()

    def varied(self, x: Tensor) -> Tensor:
        """bool [N]: the in_baseline of the row's group do not all have the same x."""
        return -self.low(-x) > self.low(x)

    def low(self, x: Tensor) -> Tensor:
        """Smallest x [N] of the row's group, [N]; 0 for a group without in_baseline."""
        votes = torch.where(self.in_baseline > 0, x, torch.inf)
        low = x.new_full((self.num,), torch.inf).scatter_reduce(0, self.index, votes, "amin")
        return torch.where(low.isfinite(), low, 0)[self.index]
