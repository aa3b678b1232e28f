"""The factors of the learning rate, update by update."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlalign.config.schema import TrainConfig
from rlalign.training.lr_schedule import lr_factor

SHARES = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]  # of the four updates after the warm-up


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", [1.0] * 6),
        ("linear", [1 - s for s in SHARES]),
        ("cosine", [(1 + math.cos(math.pi * s)) / 2 for s in SHARES]),
    ],
)
def test_factors_of_a_run_of_six_updates(schedule: str, after: list[float]) -> None:
    config = replace(TrainConfig().learner, lr_schedule=schedule, warmup=2)
    factor = lr_factor(config, 6)
    assert [factor(update) for update in range(8)] == pytest.approx([0.5, 1.0, *after])
