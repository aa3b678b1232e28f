"""Studies that really run: the grid, what a kill costs, a crash, runs that exist already, a search, a cluster.

Small: Reverse with the GRU, three steps a run.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rlalign
from rlalign.cli import main
from rlalign.compare.output.html import render
from rlalign.compare.records.collect_runs import Excluding, gather
from rlalign.compare.records.run_records import finished
from rlalign.compare.results.results_json import read_results, to_json
from rlalign.compare.results.schema import Results
from rlalign.compare.run_study import compare_runs, compare_study
from rlalign.compare.running.grid import run_cells
from rlalign.compare.running.workers import LocalWorkers, log_of
from rlalign.compare.study import Cell, Study, cells
from rlalign.errors import FaultError, UserError
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config, write_config

NOTHING = Excluding()
SEEDS = 5
FLAGS = ["--algorithms", "rloo,grpo", "--envs", "rlalign/Reverse-v0", "--policy", "gru", "--steps", "3"]
FLAGS += ["--seeds", str(SEEDS), "--jobs", "2", "--evaluation.prompts", "8"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of 2 algorithms × 1 environment × 5 seeds."""
    folder = tmp_path_factory.mktemp("study") / "cmp"
    assert main(["compare", *FLAGS, "--output", str(folder)]) == 0
    return folder


_CLOCK = ("seconds", "created", "command", "folder", "commit")


def without_clock(results: Results) -> Any:
    """results.json without what two runs of one study may differ in: paths, times, and all that is made of seconds."""
    data = json.loads(to_json(results))

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: cleaned(v) for k, v in value.items() if k not in _CLOCK}
        return [cleaned(v) for v in value] if isinstance(value, list) else value

    return cleaned(data)


def test_everything_is_written(study: Path) -> None:
    results = read_results(study)
    names = {p.name for p in study.iterdir()}
    pictures = {"curves-reverse.png", "frontier-reverse.png", "profile-reverse.png", "scores.png"}
    assert {"results.json", "results.csv", "report.html", *pictures} <= names
    env = results.environments["reverse"]
    assert results.algorithms == list(env.algorithms) == ["rloo", "grpo"]
    assert results.seeds == list(range(SEEDS))
    assert len(env.prompts) == 8
    for result in env.algorithms.values():
        assert [len(row) for row in result.final] == [8] * SEEDS
        assert result.curves[0].step == [0, 1, 2, 3]
        assert result.curves[0].samples == [0, 128, 256, 384]
    with (study / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * SEEDS
    assert results.verdict
    assert "80 % power" in results.verdict[-1]


def test_one_seed_is_the_same_start_for_all_and_other_seeds_are_not(study: Path) -> None:
    """Pairs are pairs: equal initial weights, held-out prompts and prompt order at a seed."""
    env = read_results(study).environments["reverse"]
    rloo, grpo = env.algorithms["rloo"], env.algorithms["grpo"]
    assert rloo.start == grpo.start
    assert rloo.start[0] != rloo.start[1]
    first = [Run(study / "cells" / "reverse" / a / "seed-0").samples[0]["prompt"] for a in ("rloo", "grpo")]
    assert first[0] == first[1]
    assert not [w for w in read_results(study).warnings if "same policy" in w]


def test_a_study_killed_in_the_middle_and_continued_equals_the_uninterrupted_one(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cmp"
    command = [sys.executable, "-m", "rlalign", "compare", *FLAGS, "--output", str(folder)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    every = cells(_asked(folder))
    while sum(finished(c.folder) for c in every) < 3:
        try:
            process.wait(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {c.name: (c.folder / "policy" / "gru.safetensors").stat().st_mtime_ns for c in every if finished(c.folder)}
    assert 3 <= len(done) < len(every)
    assert not (folder / "results.json").exists()
    assert main(["compare", *FLAGS, "--output", str(folder)]) == 0
    after = {c.name: (c.folder / "policy" / "gru.safetensors").stat().st_mtime_ns for c in every}
    assert {name: after[name] for name in done} == done  # what was finished is not run again
    assert without_clock(read_results(folder)) == without_clock(read_results(study))
    for at in (folder, study):  # and what is read is what was found
        assert (at / "report.html").read_text(encoding="utf-8") == render(read_results(at))


def _asked(folder: Path) -> Study:
    settings = {"evaluation.prompts": 8}
    envs, seeds = ("rlalign/Reverse-v0",), tuple(range(SEEDS))
    return Study(("rloo", "grpo"), envs, seeds=seeds, steps=3, output=str(folder), settings=settings)


def test_an_unfinished_cell_goes_on_from_its_checkpoint(study: Path, tmp_path: Path) -> None:
    """A run of 3 steps saved at step 2 and cut there: the grid resumes it and ends in the same weights, bit for bit."""
    settings = {"evaluation.prompts": 8}
    (cell,) = cells(Study(("rloo",), ("reverse",), seeds=(0,), steps=3, output=str(tmp_path), settings=settings))
    rlalign.train(config=cell.config, steps=2, quiet=True)
    write_config(cell.folder, cell.config)
    assert not finished(cell.folder)
    workers = LocalWorkers(1)
    assert run_cells([cell], workers, Console(quiet=True)) == {}
    theirs = study / "cells" / "reverse" / "rloo" / "seed-0"
    for name in ("policy/gru.safetensors", "samples.jsonl"):
        assert (cell.folder / name).read_bytes() == (theirs / name).read_bytes()


def test_a_cell_by_trl_that_was_killed_begins_again_and_ends_the_same(tmp_path: Path) -> None:
    """TRL's state in the middle of a run is not kept: whatever a kill left is cleared, a last checkpoint too."""
    small = {"evaluation.prompts": 2, "model.hidden_size": 32, "rollout.prompts": 3, "rollout.group_size": 4}

    def cell(folder: str) -> Cell:
        envs, output = ("reverse?max_length=2",), str(tmp_path / folder)
        (one,) = cells(Study(("trl:grpo",), envs, "tiny", (0,), steps=2, output=output, settings=small))
        return one

    whole, early, late = cell("whole"), cell("early"), cell("late")
    assert run_cells([whole], LocalWorkers(1), Console(quiet=True)) == {}
    for killed, lost in ((early, ("checkpoints", "policy", "report")), (late, ("report",))):
        shutil.copytree(whole.folder, killed.folder)
        write_config(killed.folder, killed.config)
        for name in lost:
            shutil.rmtree(killed.folder / name)
    (early.folder / "metrics.jsonl").write_text((whole.folder / "metrics.jsonl").read_text().splitlines()[0] + "\n{")
    for again in (early, late):
        assert run_cells([again], LocalWorkers(1), Console(quiet=True)) == {}
        for name in ("policy/model.safetensors", "samples.jsonl", "report/evaluation.json"):
            assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_folder_of_another_study_is_refused(study: Path) -> None:
    asked = _asked(study)
    other = Study(asked.algorithms, asked.envs, seeds=asked.seeds, steps=3, output=asked.output, settings={"lr": 0.5})
    with pytest.raises(UserError, match="choose another --output"):
        compare_study(other, command="")


def test_a_crashed_cell_is_reported_and_counts_as_its_start(tmp_path: Path) -> None:
    """An infinite learning rate breaks the weights of one of the two."""
    asked = Study(
        ("rloo", "grpo"),
        ("reverse",),
        seeds=(0, 1),
        steps=1,
        output=str(tmp_path),
        settings={"evaluation.prompts": 8},
        algorithm={"grpo": {"learner.lr": 1e39}},
    )
    results = compare_study(asked, command="")
    assert {(f.algorithm, f.seed) for f in results.failures} == {("grpo", 0), ("grpo", 1)}
    assert "not finite" in results.failures[0].reason
    grpo = results.environments["reverse"].algorithms["grpo"]
    assert grpo.failed == [True, True]
    assert grpo.final == grpo.start
    assert grpo.to_threshold == {} or not any(grpo.to_threshold["samples"].reached)
    assert any("2 cells failed" in w for w in results.warnings)
    (pair,) = results.environments["reverse"].pairs
    assert (pair.difference.value, pair.p, pair.winner, pair.detectable) == (None, None, None, None)
    assert results.verdict == ["grpo failed at every seed on reverse and is not compared there."]
    assert pair.failed == ["grpo"]
    assert main(["report", str(tmp_path)]) == 0


def test_a_study_of_which_nothing_finished_says_why(tmp_path: Path) -> None:
    asked = Study(("rloo",), ("reverse",), seeds=(0,), steps=1, output=str(tmp_path), settings={"lr": 1e39})
    with pytest.raises(FaultError, match=r"every cell on reverse failed.*not finite"):
        compare_study(asked, command="")


@pytest.fixture
def runs(study: Path, tmp_path: Path) -> dict[str, Path]:
    """Copies of two seeds of both algorithms, as loose runs."""
    found = {}
    for algorithm in ("rloo", "grpo"):
        for seed in (0, 1):
            at = tmp_path / f"{algorithm}-{seed}"
            shutil.copytree(study / "cells" / "reverse" / algorithm / f"seed-{seed}", at)
            found[at.name] = at
    return found


def _compare(runs: dict[str, Path], tmp_path: Path, leave_out: Excluding = NOTHING) -> Results:
    return compare_runs(list(runs.values()), tmp_path / "out", command="", leave_out=leave_out)


def test_runs_that_exist_give_the_numbers_of_the_study(study: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    mixed = [runs[name] for name in ("grpo-1", "rloo-0", "grpo-0", "rloo-1")]  # in no order of seeds
    results = compare_runs(mixed, tmp_path / "out", leave_out=NOTHING)
    assert results.seeds == [0, 1]
    found = results.environments["reverse"].algorithms["grpo"]
    assert found.final == read_results(study).environments["reverse"].algorithms["grpo"].final[:2]


def test_a_studys_folder_stands_for_its_cells(study: Path, tmp_path: Path) -> None:
    found = compare_runs([study], tmp_path / "out", command="", leave_out=Excluding())
    ours, theirs = (without_clock(r)["environments"]["reverse"]["algorithms"] for r in (found, read_results(study)))
    assert ours == theirs


def test_an_unfinished_run_is_named_and_left_out_only_when_asked(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["grpo-1"] / "report" / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"grpo-1' is not finished.*--exclude-unfinished"):
        _compare(runs, tmp_path)
    with pytest.raises(UserError, match=r"grpo on reverse has no seed 1.*--exclude-incomplete"):
        _compare(runs, tmp_path, Excluding(unfinished=True))
    found = _compare(runs, tmp_path, Excluding(unfinished=True, incomplete=True))
    assert found.seeds == [0]
    assert {(f.algorithm, f.seed) for f in found.excluded} == {("grpo", 1), ("rloo", 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 2}, "steps 2 where others have 3"),
        ({"policy": "tiny"}, "policy 'tiny' where others have 'gru'"),
        ({"rollout": {"prompts": 1}}, "samples per step 8 where others have 128"),
    ],
)
def test_a_run_of_another_budget_is_named(
    runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = runs["grpo-1"] / "config.json"
    data = json.loads(path.read_text())
    for key, value in change.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"grpo-1' has {message}.*--exclude-mixed"):
        _compare(runs, tmp_path)
    found = _compare(runs, tmp_path, Excluding(mixed=True, incomplete=True))
    assert message in found.excluded[0].reason
    assert found.seeds == [0]


def test_a_run_of_another_environment_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    path = runs["grpo-1"] / "config.json"
    path.write_text(path.read_text().replace("rlalign/Reverse-v0", "rlalign/Copy-v0"))
    with pytest.raises(UserError, match=r"grpo-1' does not fit: rloo has no run on copy.*--exclude-mixed"):
        _compare(runs, tmp_path)


def test_a_run_mixed_into_a_studys_cells_is_named_by_its_folder(runs: dict[str, Path], tmp_path: Path) -> None:
    """It is one against many, wherever the hole is that it makes."""
    shutil.copytree(runs["grpo-1"], tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    for old, new, words in (
        ('"lr": 0.003', '"lr": 0.5', r"odd' does not fit: grpo \(lr 0.5\) on reverse has no seed 0"),
        ("rlalign/Reverse-v0", "rlalign/Copy-v0", "odd' does not fit: rloo has no run on copy"),
        ('"seed": 1', '"seed": 7', "odd' does not fit: rloo on reverse has no seed 7"),
    ):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=words):
            _compare({**runs, "odd": path.parent}, tmp_path)
        path.write_text(text)


def test_a_folder_of_runs_stands_for_them(study: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    assert {c.folder for c in gather([tmp_path], NOTHING)[0]} == set(runs.values())
    assert len(gather([study.parent], NOTHING)[0]) == 2 * SEEDS
    for folder, words in ((study / "cells" / "reverse", "holds neither a run"), (tmp_path / "no", "is no folder")):
        with pytest.raises(UserError, match=words):
            gather([folder], NOTHING)


def test_one_experiment_twice_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["grpo-1"], tmp_path / "again")
    with pytest.raises(UserError, match="the same experiment at the same seed"):
        _compare({**runs, "again": tmp_path / "again"}, tmp_path)


def test_one_algorithm_under_two_settings_is_two_competitors(runs: dict[str, Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        path = runs[f"grpo-{seed}"] / "config.json"
        config = read_config(path.parent)
        data = json.loads((runs[f"rloo-{seed}"] / "config.json").read_text())
        data["learner"]["lr"] = 0.5
        path.write_text(json.dumps(data))
        assert config.algorithm == "grpo"
    assert _compare(runs, tmp_path).algorithms == ["rloo (lr 0.003)", "rloo (lr 0.5)"]


def test_a_search_resumes_and_ends_in_settings_that_train_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / "tune"
    flags = ["--env", "reverse", "--algorithm", "grpo", "--steps", "2", "--search", "lr=log:1e-4:1e-2"]
    flags += ["--search", "group_size=choice:4,8", "--output", str(folder), "--jobs", "1", "--evaluation.prompts", "8"]
    assert main(["tune", *flags, "--trials", "2"]) == 0
    first = json.loads((folder / "trials.json").read_text())["trials"]
    assert main(["tune", *flags, "--trials", "3"]) == 0
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    assert trials[:2] == first
    assert len(trials) == 3
    best = max(trials, key=lambda t: t["value"])
    page = (folder / "report.html").read_text()
    assert f"Trial {best['number']} has the highest held-out reward" in page
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page
    config = _parsed(["--config", str(folder / "best.toml"), "--steps", "9"])
    assert config.learner.lr == best["settings"]["learner.lr"]
    assert (config.algorithm, config.policy, config.steps, config.samples_per_step) == ("grpo", "gru", 9, 128)
    assert config.rollout.group_size == best["settings"]["rollout.group_size"]
    for other, words in (
        (["--search", "lr=log:1e-5:1e-2"], "holds a search over"),
        (["--steps", "3"], "holds a search with steps 2, not 3"),
        (["--env", "copy"], "holds a search with env 'rlalign/Reverse-v0', not 'rlalign/Copy-v0'"),
        (["--algorithm", "dr_grpo"], "holds a search with algorithm 'grpo', not 'dr_grpo'"),
        (["--policy", "tiny"], "holds a search with policy 'gru', not 'tiny'"),
        (["--learner.beta1", "0.8"], "holds a search with learner.beta1 0.9, not 0.8"),
    ):
        assert main(["tune", *flags, "--trials", "4", *other]) == 2
        assert words in capsys.readouterr().err
    assert json.loads((folder / "trials.json").read_text())["trials"] == trials


def _parsed(args: list[str]) -> Any:
    from rlalign.cli.train import parse

    return parse(args)


def test_each_algorithm_is_tuned_alike_before_it_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    flags = ["--algorithms", "rloo,grpo", "--envs", "reverse", "--steps", "1", "--seeds", "2", "--tune", "2"]
    assert main(["compare", *flags, "--output", str(tmp_path), "--jobs", "2", "--evaluation.prompts", "8"]) == 0
    results = read_results(tmp_path)
    assert [(t.algorithm, t.trials) for t in results.tuning] == [("rloo", 2), ("grpo", 2)]
    for t in results.tuning:
        config = read_config(tmp_path / "cells" / "reverse" / t.algorithm / "seed-0")
        assert str(config.learner.lr) == t.best["learner.lr"]
        assert t.seed not in results.seeds
        trial = read_config(tmp_path / "tune" / "reverse" / t.algorithm / "trials" / "0")
        assert (trial.evaluation.split, config.evaluation.split) == ("validation", "test")


def test_a_cluster_gives_the_same_runs_bit_for_bit_and_lets_them_save(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    there = tempfile.TemporaryDirectory(prefix="rl")  # a short path: the cluster's sockets lie there as well
    monkeypatch.setenv("TMPDIR", there.name)
    two = [c for c in cells(_asked(tmp_path / "cmp")) if c.seed == 0]
    from rlalign.compare.running.ray_cluster import RayWorkers

    workers = RayWorkers("local", jobs=2)
    try:
        assert run_cells(two, workers, Console(quiet=True)) == {}
        endless = replace(two[0].config, steps=10**6, output=str(tmp_path / "endless"))
        workers.start("endless", endless)
        while not any(read_metrics(folder) for folder in Path(there.name).glob("*/run")):
            assert workers.wait(0.05) == []
    finally:
        workers.close()
        there.cleanup()
    (*_, last) = checkpoint.complete(tmp_path / "endless" / "checkpoints")
    assert checkpoint.step_of(last) == len(read_metrics(tmp_path / "endless")) > 0
    for cell in two:
        theirs = study / "cells" / cell.name
        for name in ("policy/gru.safetensors", "samples.jsonl", "report/evaluation.json"):
            assert (cell.folder / name).read_bytes() == (theirs / name).read_bytes()
        assert read_config(cell.folder).output == str(cell.folder)


def test_the_end_of_a_process_is_seen_though_its_server_is_silent(tmp_path: Path) -> None:
    """A server of processes that does not report must not keep the study waiting: how a run ended, it says itself."""
    (done, killed) = cells(Study(("rloo",), ("reverse",), seeds=(0, 1), steps=1, output=str(tmp_path)))
    workers = LocalWorkers(2)
    workers.start("done", done.config)
    workers.start("killed", replace(killed.config, steps=10**6))
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # private
    another = workers._context.Process(target=int)
    another.start()  # the server has let go of the others' lines by now, which it holds for a moment after a fork
    os.kill(server, signal.SIGSTOP)
    try:
        assert _ended(workers) == ("done", 0)
        workers._running["killed"][0].kill()
        assert _ended(workers)[0] == "killed"
    finally:
        os.kill(server, signal.SIGCONT)
    another.join()
    workers.start("killed", replace(killed.config, steps=10**6, output=str(tmp_path / "again")))
    workers._running["killed"][0].kill()
    assert _ended(workers) == ("killed", -signal.SIGKILL)


def _ended(workers: LocalWorkers) -> tuple[str, int]:
    while not (found := workers.wait(60)):
        continue
    (one,) = found
    return one.name, one.status


def test_a_signal_to_all_processes_of_a_study_lets_its_cells_save(tmp_path: Path) -> None:
    """Ctrl-C and a machine that shuts down reach the study, its cells, and the server that these are forked from."""
    flags = ["--algorithms", "rloo,grpo", "--envs", "reverse", "--steps", str(10**6), "--seeds", "1", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlalign", "compare", *flags, "--output", str(tmp_path)],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    every = cells(Study(("rloo", "grpo"), ("reverse",), seeds=(0,), output=str(tmp_path)))
    while process.poll() is None and not all(read_metrics(c.folder) for c in every):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 143
    assert "failed" not in said
    for cell in every:
        (*_, last) = checkpoint.complete(cell.folder / "checkpoints")
        assert checkpoint.step_of(last) == len(read_metrics(cell.folder)) > 0
        assert "Traceback" not in log_of(cell.config).read_text()
