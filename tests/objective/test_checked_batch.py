"""Errors for tensors of a wrong shape or dtype, and for NaN and inf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import NonFiniteError, Objective, compute_advantages, policy_loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": torch.zeros(4, 2)}, r"logprobs: expected shape \[4, 3\], got \[4, 2\]"),
        ({"rewards": torch.zeros(3)}, r"rewards: expected shape \[4\] or \[4, 3\], got \[3\]"),
        ({"group_ids": torch.zeros(5, dtype=torch.int64)}, r"group_ids: expected shape \[4\], got \[5\]"),
        ({"valid": torch.ones(4, 3, dtype=torch.bool)}, r"valid: expected shape \[4\], got \[4, 3\]"),
        ({"action_mask": torch.ones(4, 3)}, r"action_mask: expected bool \[N, T\], got float32 \[4, 3\]"),
        ({"rewards": torch.tensor([1.0, float("nan"), 0, 0])}, "rewards: .*got NaN or inf in rows 1"),
        ({"old_logprobs": torch.full((4, 3), float("nan"))}, "old_logprobs: .*got NaN or inf in rows 0, 1, 2, 3"),
    ],
)
def test_error_names_the_bad_tensor(small_batch, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compute_advantages(Objective(), small_batch(**changes))


def test_a_diverged_policy_has_its_own_error(small_batch) -> None:
    b = replace(small_batch(logprobs=torch.full((4, 3), float("nan"))), advantages=torch.ones(4, 3))
    with pytest.raises(NonFiniteError) as error:
        policy_loss(Objective(), b)
    assert error.value.tensor == "logprobs"


@pytest.mark.parametrize(("count", "shown"), [(1, "rows 0"), (5, "rows 0, 1, 2, 3, 4"), (6, "rows 0, 1, 2, 3, 4, ...")])
def test_at_most_five_rows_are_listed(count: int, shown: str) -> None:
    assert str(NonFiniteError("rewards", list(range(count)))).split("; ")[0].endswith(shown)
