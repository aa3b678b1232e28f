"""A Ray cluster: equal runs to those of this machine, saved when it closes; the reason of a rejected run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rlalign.compare.running.ray_workers import RayWorkers
from rlalign.compare.running.run_cells import run_cells
from rlalign.compare.study import build_cells
from rlalign.config.schema import TrainConfig
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config


def test_runs_on_a_cluster_are_bitwise_equal_and_save_when_it_closes(
    finished_study: Path, same_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    scratch = tempfile.TemporaryDirectory(prefix="rl")  # a short path: it also holds the cluster's sockets
    monkeypatch.setenv("TMPDIR", scratch.name)
    two = [cell for cell in build_cells(same_study(tmp_path / "cmp")) if cell.seed == 0]
    workers = RayWorkers("local", jobs=2)
    try:
        assert run_cells(two, workers, Console(quiet=True)) == {}
        endless = replace(two[0].config, steps=10**6, output=str(tmp_path / "endless"))
        workers.start("endless", endless)
        while not any(read_metrics(folder) for folder in Path(scratch.name).glob("*/run")):
            assert workers.wait(0.05) == []
    finally:
        workers.close()
        scratch.cleanup()
    (*_, last) = checkpoint.complete(tmp_path / "endless" / "checkpoints")
    assert checkpoint.step_of(last) == len(read_metrics(tmp_path / "endless")) > 0
    for cell in two:
        expected = finished_study / "cells" / cell.name
        for name in ("policy/gru.safetensors", "samples.jsonl", "report/evaluation.json"):
            assert (cell.folder / name).read_bytes() == (expected / name).read_bytes()
        assert read_config(cell.folder).output == str(cell.folder)


def test_a_run_that_the_cluster_rejected_has_a_reason(tmp_path: Path) -> None:
    """Such a run has no folder in which its output could be stored."""
    config = replace(TrainConfig(), output=str(tmp_path / "cells" / "reverse" / "rloo" / "seed-0"))
    workers = object.__new__(RayWorkers)  # without a cluster
    workers._running = {"it": ("ref", config)}
    workers._ray = SimpleNamespace(
        wait=lambda refs, **_: (refs, []),
        get=lambda _: (2, "a line\nUserError: no such thing\n\n", b""),
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    (ended,) = workers.wait(0.0)
    assert (ended.status, ended.reason) == (2, "UserError: no such thing")
