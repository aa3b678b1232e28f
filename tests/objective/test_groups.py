"""Group statistics against plain Python numbers and against sums over the ids."""

from __future__ import annotations

import statistics

import pytest
import torch

from rlalign.objective.groups import Groups

IDS = torch.tensor([7, 3, 7, 3, 7, 5])
INCLUDED = torch.tensor([True, True, True, True, False, False])
X = torch.tensor([1.0, 4.0, 2.0, 4.0, 50.0, 60.0], dtype=torch.float64)


def test_statistics_leave_out_excluded_rows() -> None:
    groups = Groups.of(IDS, INCLUDED, X.dtype)
    assert groups.count().tolist() == [2, 2, 2, 2, 2, 0]
    assert groups.sum(X).tolist() == [3, 8, 3, 8, 3, 0]
    assert groups.mean(X).tolist() == [1.5, 4, 1.5, 4, 1.5, 0]
    assert groups.low(X).tolist() == [1, 4, 1, 4, 1, 0]
    assert groups.varied(X).tolist() == [True, False, True, False, True, False]
    std = statistics.stdev([1.0, 2.0])
    assert groups.std(X).tolist() == pytest.approx([std, 0, std, 0, std, 0])


def test_others_leave_out_the_row_and_a_single_row_is_its_own() -> None:
    groups = Groups.of(torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool), torch.float64)
    assert groups.others(torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)).tolist() == [3, 1, 5]


def test_single_group_is_the_whole_batch() -> None:
    assert Groups.single(INCLUDED, X.dtype).mean(X).tolist() == [2.75] * 6


def test_per_group_returns_one_entry_per_id_in_order() -> None:
    groups = Groups.of(IDS, INCLUDED, X.dtype)
    assert groups.per_group(groups.varied(X)).tolist() == [False, False, True]  # ids 3, 5, 7
    assert groups.per_group(groups.sum(X)).tolist() == [8, 0, 3]


def test_sum_and_count_equal_sums_over_the_ids_bit_for_bit() -> None:
    # z = (x - mean) / std with divisor n, as rollout.component_normalization computes it
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (40,), generator=generator)
    values = torch.randn(40, generator=generator)
    values[3] = torch.nan
    valid = torch.rand(40, generator=generator) < 0.8
    included = valid & values.isfinite()
    x = torch.where(included, values.double(), 0.0)

    groups = Groups.of(ids, included, torch.float64)
    count = groups.count().clamp(min=1)
    centered = torch.where(included, x - groups.sum(x) / count, 0.0)
    std = (groups.sum(centered * centered) / count).sqrt()

    def summed(rows: torch.Tensor) -> torch.Tensor:
        return torch.zeros(5, dtype=torch.float64).index_add_(0, ids, rows)

    expected_count = summed(included.double()).clamp(min=1)
    expected_centered = torch.where(included, x - (summed(x) / expected_count)[ids], 0.0)
    expected_std = (summed(expected_centered * expected_centered) / expected_count).sqrt()[ids]
    assert torch.equal(centered, expected_centered)
    assert torch.equal(std, expected_std)
