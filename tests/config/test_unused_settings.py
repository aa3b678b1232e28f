"""Reports of changed settings that no part of a run reads."""

import pytest

from rlalign.algorithms import sampling_presets
from rlalign.config.defaults import default_config
from rlalign.config.serialize import update
from rlalign.config.unused_settings import cautions, unused_settings
from rlalign.config.validate import resolve


def unused(algorithm="rloo", policy="gru", **changes):
    """Return the unused settings of a configuration; `__` in the name of a change is a dot."""
    base = default_config("reverse", policy, algorithm)
    return unused_settings(resolve(update(base, {k.replace("__", "."): v for k, v in changes.items()})))


@pytest.mark.parametrize("algorithm", sampling_presets())
def test_presets_have_no_unused_setting(algorithm):
    assert unused(algorithm) == {}


@pytest.mark.parametrize(
    ("algorithm", "changes", "key", "reason"),
    [
        ("rloo", {"objective__trust__high": 0.3}, "objective.trust.high", "trust.kind is none"),
        ("grpo", {"objective__trust__delta": 0.3}, "objective.trust.delta", "trust.kind is clip"),
        ("rloo", {"objective__value__lr": 0.3}, "objective.value.lr", "value.kind is none"),
        ("rloo", {"supervised__weight": 2.0}, "supervised.weight", "align_interval is 0"),
        ("rloo", {"supervised__weight": 0.0, "supervised__align_interval": 1}, "supervised.align_interval", "is 0"),
        ("vapo", {"objective__credit__lambda_actor": 0.5}, "objective.credit.lambda_actor", "length_alpha"),
        ("rloo", {"objective__kl__estimator": "k3"}, "objective.kl.estimator", "no KL term"),
        ("rloo", {"rollout__max_draws": 2}, "rollout.max_draws", "dynamic_sampling is off"),
    ],
)
def test_a_changed_setting_that_is_not_read_is_reported(algorithm, changes, key, reason):
    settings = unused(algorithm, **changes)
    assert list(settings) == [key]
    assert reason in settings[key]


def test_settings_that_are_read_are_not_reported():
    assert unused("grpo", objective__trust__high=0.3, learner__lr=1e-4) == {}
    assert unused("dapo", rollout__max_draws=2) == {}
    assert unused("ppo", objective__value__lr=1e-3, objective__credit__lambda_actor=0.9) == {}


@pytest.mark.parametrize(
    ("policy", "changes", "unread"),
    [
        ("tiny", {"model__adapter__r": 4, "model__adapter__alpha": 32, "model__layers": 3}, []),
        (
            "tiny",
            {"model__adapter__alpha": 32, "model__trust_remote_code": True},
            ["adapter.alpha", "trust_remote_code"],
        ),
        ("gru", {"model__hidden_size": 32, "model__layers": 3, "model__dtype": "bfloat16"}, ["dtype", "layers"]),
        ("smollm2", {"model__adapter__alpha": 32, "model__hidden_size": 32}, ["hidden_size"]),
        ("smollm2", {"model__adapter__kind": "none", "model__adapter__alpha": 32}, ["adapter.alpha"]),
    ],
)
def test_model_settings_that_the_kind_of_policy_does_not_read_are_reported(policy, changes, unread):
    assert sorted(unused(policy=policy, **changes)) == [f"model.{name}" for name in unread]


def test_a_warm_up_that_is_longer_than_the_run_is_reported():
    base = update(default_config("reverse", "gru", "rloo"), {"steps": 24, "learner.warmup": 240})
    assert cautions(base) == [
        "learner.warmup 240 is longer than the 24 updates of the run, so the learning rate ends at 0.0003 and never "
        "reaches learner.lr 0.003"
    ]
    assert cautions(update(base, {"learner.warmup": 24})) == []
