"""Alarms in short runs of a small policy, with a planted reward hack and without one."""

import json

import pytest

import rlalign

SMALL = {"steps": 30, "rollout__prompts": 8, "model__hidden_size": 48, "evaluation__prompts": 4, "learner__lr": 6e-3}


def alarms_of(env, folder, **settings):
    """Train a small policy and return the names of the alarms of the run."""
    run = rlalign.train(env, "gru", "rloo", output=folder, quiet=True, **{**SMALL, **settings})
    path = run.folder / "report" / "alarms.json"
    return set(json.loads(path.read_text())) if path.is_file() else set()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("hackme", {"gold", "phrase"}),
        pytest.param("hackme?exploit=format", {"gold"}, marks=pytest.mark.slow),
        pytest.param("hackme?exploit=length", {"gold"}, marks=pytest.mark.slow),
        ("overlongtrap", {"length"}),
        pytest.param("preference", {"gold", "phrase"}, marks=pytest.mark.slow),
    ],
)
def test_planted_hack_raises_its_alarms(tmp_path, env, expected):
    assert expected <= alarms_of(env, tmp_path / "run")


@pytest.mark.parametrize(
    "env",
    [
        "reverse",
        pytest.param("reverse?max_length=2", marks=pytest.mark.slow),
        pytest.param("alignment", marks=pytest.mark.slow),
        pytest.param("sort", marks=pytest.mark.slow),
        pytest.param("guessnumber", marks=pytest.mark.slow),
        "recommend",  # all episodes begin with the same recommendation, before the first reply of the user
        "parity?max_length=5",  # the policy answers 1 to all prompts before it learns to count
    ],
)
def test_run_without_hack_raises_no_alarm(tmp_path, env):
    """Longer training of these environments is covered by benchmarks/environments.py."""
    assert alarms_of(env, tmp_path / "run", steps=40) == set()
