"""A batch small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlalign.objective import Batch, Objective, compute_advantages


def _small_batch(**changes: Any) -> Batch:
    lengths = torch.tensor([3, 1, 2, 3])
    b = Batch(
        action_mask=torch.arange(3) < lengths[:, None],
        rewards=torch.tensor([1.0, 0.0, 0.5, 0.5]),
        group_ids=torch.tensor([4, 4, 9, 9]),
        terminated=torch.tensor([True, True, False, True]),
        truncated=torch.tensor([False, False, True, False]),
        logprobs=torch.full((4, 3), -1.0, requires_grad=True),
        old_logprobs=torch.full((4, 3), -1.0),
        sampler_logprobs=torch.full((4, 3), -1.0),
        ref_logprobs=torch.full((4, 3), -1.5),
        entropies=torch.full((4, 3), 0.7),
        max_length=4,
    )
    return replace(b, **changes)


@pytest.fixture(scope="session")
def small_batch() -> Callable[..., Batch]:
    """Two groups of two rows, three columns, lengths 3 1 2 3; fields are overridden by keyword."""
    return _small_batch


@pytest.fixture(scope="session")
def first_column() -> Callable[..., list[float]]:
    """The advantages of the first column, rounded to six digits."""

    def column(objective: Objective, batch: Batch, **arguments: Any) -> list[float]:
        advantages = compute_advantages(objective, batch, **arguments).advantages
        assert advantages is not None
        return [round(x, 6) for x in advantages[:, 0].tolist()]

    return column
