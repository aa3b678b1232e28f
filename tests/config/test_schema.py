"""Configurations: round trips, differences, and errors that name the numbers and the fix."""

import dataclasses
import sys

import pytest

from rlalign.config import serialize as C
from rlalign.config.defaults import default_config
from rlalign.config.schema import LearnerConfig, RolloutConfig, TrackingConfig, TrainConfig
from rlalign.config.serialize import from_json, to_json
from rlalign.config.validate import resolve, validate
from rlalign.errors import UserError
from rlalign.objective.registries import BASELINES


def test_json_round_trip_preserves_the_configuration():
    config = dataclasses.replace(default_config(algorithm="grpo"), rewards=("vader", "length=0.5"), seed=7)
    assert C.from_dict(TrainConfig, C.to_dict(config)) == config


def test_error_of_an_unknown_key_names_the_nearest_one():
    with pytest.raises(UserError, match=r"learner\.learning_rte.*Available|learner\.learning_rte.*Did you mean"):
        C.from_dict(TrainConfig, {"learner": {"learning_rte": 1}})
    with pytest.raises(UserError, match="Did you mean 'warmup'"):
        C.update(TrainConfig(), {"learner.warmupp": 3})


def test_update_changes_only_the_named_settings():
    old = default_config(algorithm="grpo")
    new = C.update(old, {"objective.baseline": "leave_one_out", "learner.lr": 2e-4})
    assert set(C.differences(old, new)) == {"objective.baseline", "learner.lr"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig(learner=LearnerConfig(minibatches=5)), "4 prompts × 8 samples = 32 sequences .* 5 .*use .*4"),
        (TrainConfig(learner=LearnerConfig(micro_batch=33)), "micro_batch 33 .* 32 sequences / 1 = 32"),
        (TrainConfig(rollout=RolloutConfig(temperature=0)), "temperature: expected above 0"),
        (TrainConfig(rollout=RolloutConfig(sampler="decod")), "Did you mean 'decode'"),
        (TrainConfig(learner=LearnerConfig(epochs=2)), "2 epochs × 1 minibatches are 2 updates .*ratio token"),
        (TrainConfig(steps=0), "steps: expected at least 1, got 0"),
        (TrainConfig(learner=LearnerConfig(lr=0.0)), r"learner.lr: expected above 0, got 0.0"),
    ],
)
def test_invalid_configurations_raise_an_error_with_the_fix(config, message):
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tensorboard": True},
            r"the package 'tensorboard'.*pip install -c constraints.txt -e '.\[tensorboard",
        ),
        ({"wandb": "offline"}, r"expected the package 'wandb', which is not installed; use pip install wandb"),
    ],
)
def test_a_missing_package_of_a_tracker_raises_an_error_before_a_run(monkeypatch, settings, message):
    config = TrainConfig(tracking=TrackingConfig(**settings))
    monkeypatch.setattr("rlalign.config.validate.find_spec", lambda name: object())
    validate(resolve(config))
    monkeypatch.setattr("rlalign.config.validate.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        validate(resolve(config))


def test_group_algorithm_with_one_sample_raises_an_error():
    config = default_config(algorithm="grpo")
    with pytest.raises(UserError, match="group_size is 1"):
        validate(dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, group_size=1)))


def test_fingerprint_ignores_settings_that_cannot_change_the_result():
    base = TrainConfig()
    same = dataclasses.replace(base, output="elsewhere", save_every=3, steps=99)
    other = dataclasses.replace(base, learner=LearnerConfig(lr=0.5))
    assert C.fingerprint(base) == C.fingerprint(same) != C.fingerprint(other)


def test_more_steps_are_a_safe_change_only_without_a_schedule():
    constant, linear = TrainConfig(), TrainConfig(learner=LearnerConfig(lr_schedule="linear"))
    assert not C.unsafe("steps", constant)
    assert C.unsafe("steps", linear)
    assert C.unsafe("learner.lr", constant)


def test_a_stored_configuration_registers_the_functions_of_its_algorithm(tmp_path, monkeypatch):
    """A cell of a study runs in a process that has only the configuration, and so does a resumed run."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from rlalign.objective import Objective, baseline\n"
        "@baseline('zero_of_this_test')\n"
        "def zero(returns, batch):\n"
        "    return 0 * returns\n"
        "MINE = Objective(baseline='zero_of_this_test')\n"
    )
    config = from_json(to_json(default_config("reverse", "gru", f"{file}:MINE")))
    monkeypatch.delitem(BASELINES._items, "zero_of_this_test")  # as in a new process
    for name in [name for name in sys.modules if name.startswith("rlalign_file_mine_")]:
        monkeypatch.delitem(sys.modules, name)
    validate(resolve(config))
    assert "zero_of_this_test" in BASELINES
