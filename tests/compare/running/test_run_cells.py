"""Studies that are killed, interrupted or resumed: the results are those of an uninterrupted study."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

import rlalign
from rlalign.cli import main
from rlalign.compare.output.html import render
from rlalign.compare.records.run_records import finished
from rlalign.compare.results.results_json import read_results
from rlalign.compare.running.local_workers import LocalWorkers
from rlalign.compare.running.run_cells import run_cells
from rlalign.compare.running.workers import log_of
from rlalign.compare.study import Cell, Study, build_cells
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import write_config


def test_a_killed_and_resumed_study_equals_an_uninterrupted_one(
    finished_study: Path, same_study: Any, study_flags: list[str], without_clock: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "cmp"
    command = [sys.executable, "-m", "rlalign", "compare", *study_flags, "--output", str(folder)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    cells = build_cells(same_study(folder))
    while sum(finished(cell.folder) for cell in cells) < 3:
        try:
            process.wait(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {c.name: (c.folder / "policy" / "gru.safetensors").stat().st_mtime_ns for c in cells if finished(c.folder)}
    assert 3 <= len(done) < len(cells)
    assert not (folder / "results.json").exists()
    assert main(["compare", *study_flags, "--output", str(folder)]) == 0
    after = {c.name: (c.folder / "policy" / "gru.safetensors").stat().st_mtime_ns for c in cells}
    assert {name: after[name] for name in done} == done  # finished cells are not run again
    assert without_clock(read_results(folder)) == without_clock(read_results(finished_study))
    for study in (folder, finished_study):  # the report equals that of the stored results
        assert (study / "report.html").read_text(encoding="utf-8") == render(read_results(study))


def test_an_unfinished_cell_is_resumed_from_its_checkpoint(finished_study: Path, tmp_path: Path) -> None:
    """A run of 3 steps that ended after its checkpoint of step 2 has bitwise equal final weights."""
    settings = {"evaluation.prompts": 8}
    (cell,) = build_cells(Study(("rloo",), ("reverse",), seeds=(0,), steps=3, output=str(tmp_path), settings=settings))
    rlalign.train(config=cell.config, steps=2, quiet=True)
    write_config(cell.folder, cell.config)
    assert not finished(cell.folder)
    assert run_cells([cell], LocalWorkers(1), Console(quiet=True)) == {}
    expected = finished_study / "cells" / "reverse" / "rloo" / "seed-0"
    for name in ("policy/gru.safetensors", "samples.jsonl"):
        assert (cell.folder / name).read_bytes() == (expected / name).read_bytes()


def test_a_killed_cell_of_trl_starts_again_with_the_same_result(tmp_path: Path) -> None:
    """TRL's state during a run is not stored, so all files of a killed run are removed, including its checkpoints."""
    small = {"evaluation.prompts": 2, "model.hidden_size": 32, "rollout.prompts": 3, "rollout.group_size": 4}

    def build_cell(folder: str) -> Cell:
        envs, output = ("reverse?max_length=2",), str(tmp_path / folder)
        (cell,) = build_cells(Study(("trl:grpo",), envs, "tiny", (0,), steps=2, output=output, settings=small))
        return cell

    complete, early, late = build_cell("complete"), build_cell("early"), build_cell("late")
    assert run_cells([complete], LocalWorkers(1), Console(quiet=True)) == {}
    for killed, lost in ((early, ("checkpoints", "policy", "report")), (late, ("report",))):
        shutil.copytree(complete.folder, killed.folder)
        write_config(killed.folder, killed.config)
        for name in lost:
            shutil.rmtree(killed.folder / name)
    first_line = (complete.folder / "metrics.jsonl").read_text().splitlines()[0]
    (early.folder / "metrics.jsonl").write_text(first_line + "\n{")
    for cell in (early, late):
        assert run_cells([cell], LocalWorkers(1), Console(quiet=True)) == {}
        for name in ("policy/model.safetensors", "samples.jsonl", "report/evaluation.json"):
            assert (cell.folder / name).read_bytes() == (complete.folder / name).read_bytes()


def test_cells_save_after_a_signal_to_all_processes_of_the_study(tmp_path: Path) -> None:
    """Ctrl-C and a shutdown reach the study, its cells, and the server that these are forked from."""
    flags = ["--algorithms", "rloo,grpo", "--envs", "reverse", "--steps", str(10**6), "--seeds", "1", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlalign", "compare", *flags, "--output", str(tmp_path)],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    cells = build_cells(Study(("rloo", "grpo"), ("reverse",), seeds=(0,), output=str(tmp_path)))
    while process.poll() is None and not all(read_metrics(cell.folder) for cell in cells):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143
    assert "failed" not in output
    for cell in cells:
        (*_, last) = checkpoint.complete(cell.folder / "checkpoints")
        assert checkpoint.step_of(last) == len(read_metrics(cell.folder)) > 0
        assert "Traceback" not in log_of(cell.config).read_text()
