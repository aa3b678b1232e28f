"""The first trials of a search: the default setting, then points in all parts of the spaces."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlalign.compare.tuning.first_trials import first_trials
from rlalign.compare.tuning.spaces import distributions
from rlalign.config.schema import TrainConfig

SPACES = {"learner.lr": "log:1e-4:1e-2", "rollout.group_size": "choice:4,8", "learner.epochs": "int:1:4"}


@pytest.fixture
def base() -> TrainConfig:
    pytest.importorskip("optuna")
    config = TrainConfig()
    return replace(
        config,
        learner=replace(config.learner, lr=2e-3, epochs=1),
        rollout=replace(config.rollout, group_size=8),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_default_is_first_and_each_quarter_of_a_range_is_tried(base: TrainConfig, seed: int) -> None:
    trials = first_trials(distributions(SPACES), base, seed)
    assert trials[0] == {"learner.lr": 2e-3, "rollout.group_size": 8, "learner.epochs": 1}
    rates = [trial["learner.lr"] for trial in trials[1:]]
    quarters = [int(4 * (math.log10(rate) + 4) / 2) for rate in rates]
    assert sorted(quarters) == [0, 0, 1, 1, 2, 2, 3, 3]  # a Sobol sequence is balanced
    assert sorted(trial["learner.epochs"] for trial in trials[1:]) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(trial["rollout.group_size"] for trial in trials[1:]) == [4] * 4 + [8] * 4


def test_a_default_outside_the_spaces_is_no_trial(base: TrainConfig) -> None:
    trials = first_trials(distributions({"learner.lr": "log:1e-5:1e-3"}), base, 0)
    assert len(trials) == 8
    assert all(1e-5 <= trial["learner.lr"] <= 1e-3 for trial in trials)


def test_the_seed_changes_the_points(base: TrainConfig) -> None:
    spaces = distributions(SPACES)
    assert first_trials(spaces, base, 1) == first_trials(spaces, base, 1)
    assert first_trials(spaces, base, 1)[1:] != first_trials(spaces, base, 2)[1:]
