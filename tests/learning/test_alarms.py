"""Planted hacks raise their alarms within a short run of a small policy; a sound run raises none."""

import json

import pytest

import rlalign

SMALL = {"steps": 30, "rollout__prompts": 8, "model__hidden_size": 48, "evaluation__prompts": 4, "learner__lr": 6e-3}


def alarms_of(env, folder, **settings):
    run = rlalign.train(env, "gru", "rloo", output=folder, quiet=True, **{**SMALL, **settings})
    path = run.folder / "report" / "alarms.json"
    return set(json.loads(path.read_text())) if path.is_file() else set()


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ("hackme", {"gold", "phrase"}),
        ("hackme?exploit=format", {"gold"}),
        ("hackme?exploit=length", {"gold"}),
        ("overlongtrap", {"length"}),
        ("preference", {"gold", "phrase"}),
    ],
)
def test_a_planted_hack_raises_its_alarms(tmp_path, env, wanted):
    assert wanted <= alarms_of(env, tmp_path / "run")


@pytest.mark.parametrize(
    "env",
    [
        "reverse",
        "reverse?max_length=2",
        "alignment",
        "sort",
        "guessnumber",
        "recommend",  # every episode begins with the same recommendation, of which its user has said nothing yet
        "parity?max_length=5",  # says 1 to everything before it counts
    ],
)
def test_a_sound_run_raises_none(tmp_path, env):
    """All of them over their whole training: benchmarks/environments.py."""
    assert alarms_of(env, tmp_path / "run", steps=40) == set()
