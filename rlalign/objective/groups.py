"""Statistics over groups of rows, such as the samples of one prompt; excluded rows have weight 0.

The one implementation of group statistics. Results are [N], the statistic of each row's own group; `per_group` turns
them into one number per group. Sums use index_add, which adds in the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """N rows sorted into K groups, such as the samples of one prompt.

    Each statistic is [N], the statistic of the row's own group, over the included rows of it. `Groups.of` builds it.

    Attributes:
        index: int64 [N], the group of each row, 0 … K-1.
        included: float [N], 1 for rows that enter the statistics, 0 for the others.
        num: K.

    Example:
        >>> import torch
        >>> ids, rewards = torch.tensor([7, 7, 7, 9]), torch.tensor([1.0, 0.0, 5.0, 2.0])
        >>> included = torch.tensor([True, True, False, True])
        >>> groups = Groups.of(ids, included, torch.float32)
        >>> groups.mean(rewards)
        tensor([0.5000, 0.5000, 0.5000, 2.0000])
        >>> groups.per_group(groups.count())
        tensor([2., 1.])
    """

    index: Tensor
    included: Tensor
    num: int

    @classmethod
    def of(cls, group_ids: Tensor, included: Tensor, dtype: torch.dtype) -> Groups:
        """Return the groups of equal ids.

        Args:
            group_ids: int64 [N]; groups are numbered in the order of their ids.
            included: bool [N]; false leaves the row out of every statistic. Its x must be finite all the same.
            dtype: of the statistics.
        """
        _, index = torch.unique(group_ids, return_inverse=True)
        return cls(index, included.to(dtype), int(index.max()) + 1 if len(index) else 0)

    @classmethod
    def single(cls, included: Tensor, dtype: torch.dtype) -> Groups:
        """Return all rows as one group.

        Args:
            included: bool [N]; false leaves the row out of every statistic.
            dtype: of the statistics.
        """
        return cls.of(torch.zeros_like(included, dtype=torch.int64), included, dtype)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum Σ_j x_j of x [N] over each row's group, [N]."""
        return x.new_zeros(self.num).index_add(0, self.index, x * self.included)[self.index]

    def count(self) -> Tensor:
        """Return the number of included rows in each row's group, [N]."""
        return self.sum(torch.ones_like(self.included))

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x [N] over each row's group, [N]; exactly x if all x are equal, 0 for an empty group."""
        # sums of differences to the minimum: equal x give exact zeros, and a large offset costs no digits
        low = self.low(x)
        return low + self.sum(x - low) / self.count().clamp(min=1)

    def others(self, x: Tensor) -> Tensor:
        """Return the mean of x [N] over each row's group without the row, [N]; x itself for a single row.

        ::

            Σ_{j≠i} x_j / (n - 1)

        It is meant for included rows. The entry of an excluded row is not a mean.
        """
        low = self.low(x)
        count = self.count()
        rest = low + (self.sum(x - low) - (x - low)) / (count - 1).clamp(min=1)
        return torch.where(count > 1, rest, x)

    def std(self, x: Tensor) -> Tensor:
        """Return the unbiased standard deviation of x [N] over each row's group, [N]; exactly 0 if all x are equal.

        ::

            sqrt(Σ_j (x_j - mean)² / (n - 1))
        """
        # two passes: E[x²] - mean² would cancel in float32
        return (self.sum((x - self.mean(x)).square()) / (self.count() - 1).clamp(min=1)).sqrt()

    def varied(self, x: Tensor) -> Tensor:
        """Return true for the rows whose group holds at least two different x [N], bool [N]."""
        return -self.low(-x) > self.low(x)

    def low(self, x: Tensor) -> Tensor:
        """Return the smallest x [N] of each row's group, [N]; 0 for a group without included rows."""
        candidates = torch.where(self.included > 0, x, torch.inf)
        low = x.new_full((self.num,), torch.inf).scatter_reduce(0, self.index, candidates, "amin")
        return torch.where(low.isfinite(), low, 0)[self.index]

    def per_group(self, statistic: Tensor) -> Tensor:
        """Return one entry per group, [K], of a statistic [N] that is equal within each group."""
        # rows of a group write the same number to the same place, so that their order does not matter
        return statistic.new_zeros(self.num).scatter(0, self.index, statistic)
