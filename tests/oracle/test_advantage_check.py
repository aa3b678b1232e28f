"""The oracle's check of custom advantages: exact, scaled and biased ones, and functions that it cannot check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import rlalign.objective as rlo
from rlalign.objective.registries import ADVANTAGES
from rlalign.oracle import report
from rlalign.oracle.advantage_check import AdvantageCheck, check_advantage

LEAVE_ONE_OUT = {"baseline": "leave_one_out"}


@pytest.fixture
def checked() -> Iterator[Callable[..., AdvantageCheck]]:
    """Return a function that checks an advantage."""

    def check(function: Any, group_size: int = 4, **axes: Any) -> AdvantageCheck:
        rlo.advantage("under_test")(function)
        return check_advantage(rlo.Objective(advantage="under_test", **axes), group_size)

    yield check
    ADVANTAGES._items.pop("under_test", None)


def test_an_advantage_that_adds_a_baseline_of_other_rows_is_exact(checked: Any) -> None:
    def others(advantages: torch.Tensor, batch: rlo.Batch) -> torch.Tensor:
        mean = (batch.returns.sum() - batch.returns) / batch.returns.numel()  # own part included: biased
        returns = batch.returns[:, :1] if batch.returns is not None else advantages
        n = len(returns)
        return torch.where(batch.action_mask, advantages - (returns.sum() - returns) / (n - 1), 0 * mean)

    check = checked(others)
    assert check.own.verdict == check.without.verdict == "exact"
    assert "expected update unbiased, exact (cosine 1.0000" in check.sentence


def test_a_factor_is_unbiased_and_said_with_its_size(checked: Any) -> None:
    check = checked(lambda advantages, batch: 3 * advantages, **LEAVE_ONE_OUT)
    assert check.own.verdict == "exact × 3"
    assert check.own.cosine == pytest.approx(1)
    assert check.group_size == 3  # at most


def test_a_sign_is_biased_with_its_angle_and_without_the_function_it_is_exact(checked: Any) -> None:
    check = checked(lambda advantages, batch: advantages.sign(), **LEAVE_ONE_OUT)
    assert check.own.verdict.startswith("biased, ")
    assert check.without.verdict == "exact"
    assert check.sentence.startswith("advantage under_test: expected update biased, ")
    stored = check.to_dict()
    assert stored["own"]["cosine"] == check.own.cosine < 1
    assert stored["verdict_without"] == "exact"


def test_what_cannot_be_checked_says_why(checked: Any) -> None:
    check = checked(lambda advantages, batch: advantages * batch.old_values)
    assert check.own is None
    assert "not checked by the oracle: on its batch, advantage 'under_test' raised TypeError" in check.sentence
    check = checked(lambda advantages, batch: advantages + torch.rand_like(advantages))
    assert "it returned different advantages for equal batches" in check.sentence


def test_the_command_and_the_registry_find_a_custom_advantage(tmp_path: Any) -> None:
    path = tmp_path / "oracle_advantage.py"
    path.write_text("def halved(advantages, batch):\n    return advantages / 2\n")
    (row,) = report(f"{path}:halved", horizon=2)
    assert row.graded.verdict == "exact × 0.5"
