"""Fixtures of studies: finished small runs, and constructed records with given held-out rewards.

Studies are small: Reverse with the GRU, three steps per run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlalign
from rlalign.api import train_config
from rlalign.cli import main
from rlalign.compare.analysis.environment import analyze_environment
from rlalign.compare.analysis.pairs import decide
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.results_json import to_json
from rlalign.compare.results.schema import Curve, EnvResult, Results
from rlalign.compare.study import Cell, Study, build_cells
from rlalign.config.schema import TrainConfig
from rlalign.run import Run

SEEDS = 5
FLAGS = ["--algorithms", "rloo,grpo", "--envs", "rlalign/Reverse-v0", "--policy", "gru", "--steps", "3"]
FLAGS += ["--seeds", str(SEEDS), "--jobs", "2", "--evaluation.prompts", "8"]
PROMPTS = 8
START = 0.1  # reward of the initial policy on each prompt of a constructed record
# Keys of results.json that two runs of one study may differ in: paths, times, and results computed from seconds.
CLOCK_KEYS = ("seconds", "created", "command", "folder", "commit")


@pytest.fixture(scope="session")
def study_flags() -> list[str]:
    """Return the flags of `rlalign compare` for `finished_study`, without --output."""
    return FLAGS


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished study of 2 algorithms × 1 environment × 5 seeds. Tests do not change it.

    Its runs are trained in this process, since the start of processes takes longer; the command finds them finished.
    """
    folder = tmp_path_factory.mktemp("study") / "cmp"
    for cell in build_cells(_study(folder)):
        train_config(cell.config, quiet=True)
    assert main(["compare", *FLAGS, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def same_study() -> Callable[[Path], Study]:
    """Return a function: output folder -> the study of `finished_study` with that folder."""

    return _study


def _study(folder: Path) -> Study:
    settings = {"evaluation.prompts": 8}
    seeds = tuple(range(SEEDS))
    return Study(("rloo", "grpo"), ("rlalign/Reverse-v0",), seeds=seeds, steps=3, output=str(folder), settings=settings)


@pytest.fixture
def runs(finished_study: Path, tmp_path: Path) -> dict[str, Path]:
    """Return copies of two seeds of both algorithms, as separate run folders: ALGORITHM-SEED -> folder."""
    folders = {}
    for algorithm in ("rloo", "grpo"):
        for seed in (0, 1):
            folder = tmp_path / f"{algorithm}-{seed}"
            shutil.copytree(finished_study / "cells" / "reverse" / algorithm / f"seed-{seed}", folder)
            folders[folder.name] = folder
    return folders


@pytest.fixture(scope="session")
def early_stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with a learning rate near 0, which early stopping ends before its ten steps.

    Tests restore the files that they change.
    """
    folder = tmp_path_factory.mktemp("early") / "run"
    return rlalign.train("reverse?max_length=2", "gru", "rloo", steps=10, output=folder, quiet=True, learner__lr=1e-9,
                         evaluation__every=1, evaluation__prompts=4, evaluation__patience=2,
                         rollout__prompts=2)  # fmt: skip


@pytest.fixture
def without_clock() -> Callable[[Results], Any]:
    """Return a function: results -> results.json without CLOCK_KEYS."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key not in CLOCK_KEYS}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return lambda results: clean(json.loads(to_json(results)))


def _record(algorithm: str, seed: int, after: Any) -> Record:
    cell = Cell("e", algorithm, seed, TrainConfig())
    before = {"reward": np.full(PROMPTS, START)}
    samples = [{"prompt": str(i), "before": ["a"], "after": ["b"]} for i in range(PROMPTS)]
    budget = [0.0, 50.0, 100.0]
    reward = [START, START, START if after is None else float(after.mean())]
    curve = Curve([0, 1, 2], budget, budget, budget, budget, list(reward), [0.0, 0.0, 0.0])
    if after is None:
        return Record(cell, "FaultError: not finite", {}, {}, [], None, curve)
    return Record(cell, None, before, {"reward": after}, samples, curve, curve)


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Return a function: (algorithm, seed, rewards after training [prompts], None for a failed cell) -> record."""
    return _record


@pytest.fixture
def decided() -> Callable[..., dict[str, EnvResult]]:
    """Return a function: (algorithm -> final rewards [seeds, prompts], name) -> results of the environment.

    The rewards are None for an algorithm that failed at every seed.
    """

    def make(rewards: Mapping[str, Any], name: str = "e") -> dict[str, EnvResult]:
        seeds = next(len(r) for r in rewards.values() if r is not None)
        grid = {
            a: {s: _record(a, s, None if r is None else np.asarray(r[s], dtype=float)) for s in range(seeds)}
            for a, r in rewards.items()
        }
        return decide({name: analyze_environment(grid)})

    return make


@pytest.fixture
def noisy() -> Callable[..., Any]:
    """Return a function: (mean reward, seeds, seed of the noise) -> final rewards [seeds, prompts]."""

    def draw(level: float, seeds: int = 6, rng: int = 0) -> Any:
        return level + 0.05 * np.random.default_rng(rng).normal(size=(seeds, PROMPTS))

    return draw
