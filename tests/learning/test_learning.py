"""Learning from scratch on Reverse (strings of two or three letters), and controls that cannot learn.

For the initial policy token_match + exact_match is about 0.13. Over seeds 0-5 the four algorithms reached 0.57 to 1.21
after 80 steps, and the controls stayed below 0.25. The thresholds leave a margin for other rounding on other machines.
"""

import numpy as np
import pytest

import rlalign
from rlalign.algorithms import sampling_presets

ENV = "reverse?max_length=3"


def final_mean(run, key, count=10):
    """Return the mean of a metric over the last steps of a run."""
    return float(np.mean(run.metrics[key][-count:]))


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo"])
def test_each_algorithm_raises_the_reward(tmp_path, algorithm):
    run = rlalign.train(
        ENV, "gru", algorithm, steps=80, output=tmp_path / "run", quiet=True, evaluation__samples=16
    )  # fmt: skip
    assert run.metrics["reward/mean"][0] < 0.25
    assert final_mean(run, "reward/mean") > 0.45
    assert run.comparison.differences["reward"].low > 0  # over seeds 0-5 at least 0.11


@pytest.mark.parametrize("baseline", [pytest.param("batch_mean", marks=pytest.mark.slow), "value"])
def test_reinforce_learns_with_other_baselines(tmp_path, baseline):
    value = {"objective__value__kind": "head"} if baseline == "value" else {}
    settings = {"objective__baseline": baseline, **value}
    run = rlalign.train(ENV, "gru", "reinforce", steps=80, output=tmp_path / "run", quiet=True, **settings)
    assert final_mean(run, "reward/mean") > 0.45


def test_ppo_learns_with_a_value_model_and_its_own_learning_rate(tmp_path):
    """The reward rises from below 0.25 to above 0.3, as for all presets below (it reaches 1.9), and values follow."""
    run = rlalign.train(
        "reverse?max_length=2", "gru", "ppo", steps=40, output=tmp_path / "run", quiet=True,
        objective__value__kind="model", objective__value__lr=1e-2, evaluation__prompts=2,
    )  # fmt: skip
    assert run.metrics["reward/mean"][0] < 0.25
    assert final_mean(run, "reward/mean", 5) > 0.3
    assert final_mean(run, "train/value", 5) == pytest.approx(final_mean(run, "reward/mean", 5), abs=0.3)


@pytest.mark.slow  # so does that of test_trl
def test_a_transformer_learns(tmp_path):
    run = rlalign.train(ENV, "tiny", "grpo", steps=60, output=tmp_path / "run", quiet=True)
    assert final_mean(run, "reward/mean") > 0.4


def test_supervised_updates_alone_raise_the_reward(tmp_path):
    """With a zero reward only theta -= alpha · grad L changes the policy."""
    zero = rlalign.reward("zero", timeout_s=None)(lambda completions, **columns: [0.0] * len(completions))
    rewards = [zero, ("token_match", 0.0)]
    run = rlalign.train(
        ENV, "gru", "rloo", rewards, steps=60, output=tmp_path / "run", quiet=True, supervised__align_interval=1
    )
    assert run.metrics["supervised/nll"][0] > 1.5
    assert final_mean(run, "supervised/nll") < 1.0
    assert final_mean(run, "reward/token_match") > 0.35


@pytest.mark.parametrize("control", [pytest.param("zero", marks=pytest.mark.slow), "random"])
def test_controls_do_not_learn(tmp_path, control):
    rng = np.random.default_rng(0)

    def reward(completions, **columns):
        return [0.0] * len(completions) if control == "zero" else rng.standard_normal(len(completions)).tolist()

    rewards = [rlalign.reward(control, timeout_s=None)(reward), ("token_match", 0.0), ("exact_match", 0.0)]
    run = rlalign.train(ENV, "gru", "rloo", rewards, steps=80, output=tmp_path / "run", quiet=True)
    assert final_mean(run, "reward/token_match") + final_mean(run, "reward/exact_match") < 0.3
    assert not run.comparison.differences["token_match"].low > 0.1


SAMPLE = ("rloo",)
"""Presets of each run of the tests, beside those of `test_each_algorithm_raises_the_reward`. .ci/slow trains all."""


@pytest.mark.parametrize(
    "algorithm", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in sampling_presets()]
)
def test_every_preset_learns_in_at_least_four_of_five_seeds(tmp_path, algorithm):
    """From the same initial policies, on strings of two letters, the reward rises from at most 0.2 to above 0.3.

    Over seeds 0-5 the lowest final reward was 0.49. DAPO first learns short answers, and VAPO first learns its value
    model; both train for more steps. VAPO's alpha is meant for long chains: on three tokens 0.05 would make its lambda
    0.
    """
    steps = {"dapo": 80, "vapo": 60}.get(algorithm, 40)
    settings = {"objective__credit__length_alpha": 1.0} if algorithm == "vapo" else {}
    successes = 0
    for seed in range(5):
        run = rlalign.train(
            "reverse?max_length=2", "gru", algorithm, steps=steps, seed=seed, quiet=True,
            output=tmp_path / str(seed), evaluation__prompts=2, **settings,
        )  # fmt: skip
        assert run.metrics["reward/mean"][0] < 0.25
        successes += final_mean(run, "reward/mean", 5) > 0.3
        if successes == 4:
            return
    raise AssertionError(f"{successes} of 5 seeds reached 0.3")
