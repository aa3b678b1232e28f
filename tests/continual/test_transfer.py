"""Forgetting and backward transfer: definitions by hand, and the coverage of the interval of a maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlalign.continual.transfer import backward_transfer, forgetting
from rlalign.continual.transfer_matrix import TransferMatrix
from rlalign.evaluation.mean_interval import mean_interval


def test_forgetting_is_the_best_former_stage_minus_the_last() -> None:
    rewards = np.array([[0.0, 0.2, 0.1], [1.0, 0.8, 0.9], [0.7, 0.7, 0.7], [0.4, 0.3, 0.5]])
    fall = forgetting(rewards)
    assert fall.mean == pytest.approx(0.5)
    # three former stages: each difference at 1 - 0.05/3, the bounds of the largest
    each = [mean_interval(rewards[stage] - rewards[3], 1 - 0.05 / 3) for stage in range(3)]
    assert fall.low == max(interval.low for interval in each)
    assert fall.high == max(interval.high for interval in each)


def test_a_reward_that_rose_to_the_end_has_negative_forgetting() -> None:
    assert forgetting(np.array([[0.0, 0.0], [0.5, 0.3], [0.9, 0.9]])).mean == pytest.approx(-0.5)


def test_with_one_former_stage_the_interval_is_the_paired_one() -> None:
    rewards = np.array([[1.0, 0.8, 0.9], [0.4, 0.3, 0.5]])
    assert forgetting(rewards) == mean_interval(rewards[0] - rewards[1])


def test_backward_transfer_is_the_last_stage_minus_the_one_that_learned() -> None:
    rewards = np.array([[0.0, 0.2], [1.0, 0.8], [0.7, 0.9]])
    assert backward_transfer(rewards, 1).mean == pytest.approx(-0.1)
    assert backward_transfer(rewards, 1) == mean_interval(rewards[2] - rewards[1])
    for learned in (None, 2):
        assert math.isnan(backward_transfer(rewards, learned).mean)


def test_prompts_without_a_score_are_left_out_of_the_pairs() -> None:
    rewards = np.array([[1.0, 0.8, np.nan, 0.6], [0.4, np.nan, 0.5, 0.2]])
    assert forgetting(rewards).n == 2
    assert forgetting(rewards).mean == pytest.approx(0.5)


@pytest.mark.parametrize("stages", [2, 4])
def test_the_interval_of_forgetting_covers_the_true_one(stages: int) -> None:
    """Four equal former stages, the hardest case for a maximum: true forgetting 0.3.

    Of 2,000 draws with a fixed seed at least 94 % must hold it; an interval of 95 % falls below that in 2 of 100 draws
    of the seed.
    """
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        noise = rng.normal(scale=0.5, size=(stages, 20)) + rng.normal(size=20)
        rewards = noise + np.array([0.3] * (stages - 1) + [0.0])[:, None]
        fall = forgetting(rewards)
        held += fall.low <= 0.3 <= fall.high
    assert held / 2000 >= 0.94


def test_the_averages_are_over_the_tasks_learned_before_the_last_stage() -> None:
    sort = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    reverse = np.array([[0.0, 0.0], [0.2, 0.2], [0.9, 0.9]])
    copy = np.array([[0.0, 0.0], [0.9, 0.9], [0.1, 0.1]])
    matrix = TransferMatrix(
        ("sort", "reverse", "copy"), ("start", "a", "b"), ("", "a", "b"), (sort, reverse, copy), (1, 2, None), "test"
    )
    assert matrix.averages == {"forgetting": pytest.approx(0.5), "backward_transfer": pytest.approx(-0.5)}
    rows = matrix.to_dict()["tasks"]
    assert [row["learned"] for row in rows] == ["a", "b", None]
    assert rows[0]["cells"]["a"]["mean"] == 1.0
