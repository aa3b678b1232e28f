"""The change of stages of `a@0,b@2` is printed and logged once, also if the run is stopped and resumed there."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlalign
from rlalign.envs.registration import make_mdp
from rlalign.storage.jsonl import read_metrics
from rlalign.training.stages import stage_change

SMALL = {"rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 2, "model__hidden_size": 16}


def changes(env: str, steps: int) -> dict[int, int]:
    mdp = make_mdp(env)
    found = {step: stage_change(mdp, step) for step in range(steps)}
    return {step: change[0] for step, change in found.items() if change is not None}


def test_stages_are_counted_and_an_environment_may_return() -> None:
    assert changes("sort@0,reverse@2,sort@5", 9) == {2: 2, 5: 3}
    assert changes("sort=1,reverse=0@0:1@4", 9) == {1: 2}  # a share that rises from 0
    assert changes("sort=0.5,reverse=0.5", 9) == {}
    assert changes("sort", 9) == {}


def test_a_change_is_printed_and_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    rlalign.train("sort@0,reverse@2", "gru", output=folder, steps=2, **SMALL)
    rlalign.train("sort@0,reverse@2", "gru", output=folder, steps=4, resume=True, **SMALL)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count("stage 2 begins with step 3: reverse (before: sort)") == 1
    assert output.index("stage 2 begins") > output.index("step 2/2")
    logged = {int(row["step"]): row["train/stage"] for row in read_metrics(folder) if "train/stage" in row}
    assert logged == {3: 2.0}
