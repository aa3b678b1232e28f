"""What a kill, a full disk, a damaged file or a changed environment leaves of a study, and what is said of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlalign
from rlalign.cli import main
from rlalign.compare.analysis.fairness import unequal_draws
from rlalign.compare.output.plots import write_plots
from rlalign.compare.output.results_csv import csv_rows
from rlalign.compare.output.write_findings import write_findings
from rlalign.compare.records.collect_runs import _expand
from rlalign.compare.records.run_records import finished, read_record
from rlalign.compare.results.results_json import read_results
from rlalign.compare.running.display import plan, steps_of, time_left
from rlalign.compare.running.grid import prepared
from rlalign.compare.running.workers import _cores
from rlalign.compare.study import Cell, Study, cells
from rlalign.compare.tuning.search_results import SearchResults, write_search, write_trials
from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig
from rlalign.errors import FaultError, UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import Evaluation
from rlalign.run import Run
from rlalign.storage import atomic as files
from rlalign.storage.atomic import write_atomic
from rlalign.storage.run_folder import RunLock, write_config

EXAMPLE = Path(__file__).parents[1] / "data" / "results.json"


_NONE = Evaluation({"reward": np.zeros((1, 1))}, ["p"], [["c"]])


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FaultError, match=r"a\.json' cannot be written \(No space left on device\): make room"):
        write_atomic(path, "new")
    with pytest.raises(FaultError, match=r"curves-.*\.png' cannot be written"):
        write_plots(tmp_path, read_results(EXAMPLE.parent))
    with pytest.raises(FaultError, match=r"b\.json' cannot be written \(File exists\)"):
        write_atomic(path / "b.json", "in a folder that is a file")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_kill_while_a_search_is_written_leaves_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills writing in place: the search could never be continued."""
    base = default_config("reverse", "gru", "grpo")
    write_search(tmp_path, {"learner.lr": "log:1e-4:1e-2"}, base)
    before = (tmp_path / "search.json").read_text()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    for write in (
        lambda: write_search(tmp_path, {}, base),
        lambda: write_trials(tmp_path, SearchResults({}, base, [], None)),
        lambda: write_config(tmp_path, base),
        lambda: write_comparison(tmp_path, Comparison(_NONE, _NONE)),  # half of it would be a TRL run that never ends
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert (tmp_path / "search.json").read_text() == before
    assert not [p for p in tmp_path.rglob("*.json") if p.name != "search.json"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("results.json", "{", "results.json' is damaged"),
        ("results.json", b"\xff", "results.json' is damaged"),
        ("results.json", '{"format": 1}', "not as rlalign writes it"),
        ("results.json", "nonsense", "not as rlalign writes it"),
        ("trials.json", "{", "trials.json' is damaged"),
        ("search.json", "{", "search.json' is damaged"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | bytes, said: str
) -> None:
    if name != "results.json":
        write_search(tmp_path, {}, TrainConfig())
        write_trials(tmp_path, SearchResults({}, TrainConfig(), [], None))
    if text == "nonsense":
        text = json.dumps({**json.loads(EXAMPLE.read_text()), "nonsense": 1})
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten steps of Reverse with the GRU, which learns nothing: its patience is over after a few."""
    folder = tmp_path_factory.mktemp("patient") / "run"
    return rlalign.train("reverse?max_length=2", "gru", "rloo", steps=10, output=folder, quiet=True, learner__lr=1e-9,
                         evaluation__every=1, evaluation__prompts=4, evaluation__patience=2,
                         rollout__prompts=2)  # fmt: skip


def test_a_run_whose_patience_was_over_is_finished(run: Run) -> None:
    """Kills waiting for its last step for ever, with the advice to resume what has ended."""
    assert 0 < steps_of(run.folder) < 10
    assert finished(run.folder)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert not finished(run.folder)
    (run.folder / "metrics.jsonl").write_text("".join(lines))


def test_another_evaluation_leaves_the_runs_own(run: Run) -> None:
    """Kills a validation on other prompts in its place, of which a study would have been made."""
    own = (run.folder / "report" / "evaluation.json").read_bytes()
    run.evaluate(split="validation", prompts=2)
    assert (run.folder / "report" / "evaluation.json").read_bytes() == own
    assert len(json.loads((run.folder / "report" / "evaluation-validation.json").read_text())["samples"]) == 2


def test_a_run_with_a_damaged_evaluation_has_no_report_and_says_why(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.folder / "report" / "evaluation.json"
    own = path.read_text()
    path.write_text(own[: len(own) // 2])
    assert main(["report", str(run.folder)]) == 2
    assert "evaluation.json' is damaged" in capsys.readouterr().err
    path.write_text(own)


def test_cells_measured_on_different_prompts_are_not_compared(run: Run, tmp_path: Path) -> None:
    a, b = (Cell("reverse", name, 0, replace(run.config, output=str(run.folder))) for name in ("a", "b"))
    assert read_record(a).prompts
    path = run.folder / "report" / "evaluation.json"
    own = path.read_text()
    other = tmp_path / "other"
    (other / "report").mkdir(parents=True)
    (other / "report" / "evaluation.json").write_text(own.replace('"prompt": "', '"prompt": "x'))
    b = replace(b, config=replace(b.config, output=str(other)))
    with pytest.raises(UserError, match="other' was measured on other held-out prompts than"):
        write_findings([a, b], tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_two_comparisons_do_not_write_into_one_folder(run: Run, tmp_path: Path, capsys: Any) -> None:
    for what in ([str(run.folder)], ["--algorithms", "rloo", "--envs", "reverse"]):
        with RunLock(tmp_path / "out"):
            assert main(["compare", *what, "--output", str(tmp_path / "out")]) == 2
        assert "is in use by process" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["compare", str(run.folder), "--output", str(tmp_path / "file")]) == 2
    assert "file' cannot be created (File exists)" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills finding it out run by run; `xpu:7` is on no machine that these tests run on."""
    for command in (["compare", "--algorithms", "rloo,grpo", "--envs", "reverse"], ["tune"]):
        assert main([*command, "--output", str(tmp_path / "out"), "--device", "xpu:7"]) == 2
        err = capsys.readouterr().err
        assert "device 'xpu:7' cannot be used here" in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_what_is_about_to_run_and_how_long_it_may_take() -> None:
    every = cells(Study(("rloo", "ppo"), ("reverse",), seeds=(0, 1, 2)))
    assert plan(every, 0, 2) == "6 runs: 2 algorithms × 1 environment × 3 seeds; 2 at once"
    assert plan(every, 4, 2) == "6 runs: 2 algorithms × 1 environment × 3 seeds; 4 of them finished already; 2 at once"
    rloo, ppo, new = ("e", "rloo"), ("e", "ppo"), ("e", "new")
    spent = {rloo: [1.0, 3.0], ppo: [8.0]}
    assert time_left(spent, [rloo, rloo, ppo], [], 2) == (2 + 2 + 8) / 2
    assert time_left(spent, [new], [(rloo, 1.5)], 1) == 4 + 0.5  # of a new kind: as all have taken
    assert time_left(spent, [], [(ppo, 1.0), (rloo, 9.0)], 2) == 7.0  # no sooner than the longest of them


def test_a_containers_share_of_the_cores_counts(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert _cores(quota) == 0.5
    quota.write_text("max 100000\n")
    assert _cores(quota) == _cores(tmp_path / "none") >= 1


def test_who_drew_more_samples_in_as_many_steps_is_said() -> None:
    results = read_results(EXAMPLE.parent)
    env = next(iter(results.environments.values()))
    one, other = list(env.algorithms)[:2]
    assert unequal_draws({"e": env}) == []
    thrown = env.algorithms[other]
    curves = [replace(c, samples=(1.5 * np.array(c.samples)).tolist()) for c in thrown.curves]
    changed = replace(env, algorithms={**env.algorithms, other: replace(thrown, curves=curves)})
    (said,) = unequal_draws({"e": changed})
    assert said.startswith(f"On e, {other} drew 1.50 times the samples that {one} drew in as many steps")


def test_a_run_that_a_cluster_refused_says_why(tmp_path: Path) -> None:
    """It has left no folder, in whose place its last words could go."""
    from types import SimpleNamespace

    from rlalign.compare.running.ray_cluster import RayWorkers

    config = replace(TrainConfig(), output=str(tmp_path / "cells" / "reverse" / "rloo" / "seed-0"))
    workers = object.__new__(RayWorkers)  # without a cluster: what came back from one
    workers._running = {"it": ("ref", config)}
    workers._ray = SimpleNamespace(
        wait=lambda refs, **_: (refs, []),
        get=lambda _: (2, "a line\nUserError: no such thing\n\n", b""),
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    (ended,) = workers.wait(0.0)
    assert (ended.status, ended.reason) == (2, "UserError: no such thing")


def test_what_a_kill_left_of_a_run_from_a_cluster_is_no_run(run: Run, tmp_path: Path) -> None:
    cells_ = tmp_path / "cells" / "reverse" / "rloo"
    for name in ("seed-0", ".seed-0.new"):
        (cells_ / name).mkdir(parents=True)
        (cells_ / name / "config.json").write_text((run.folder / "config.json").read_text())
    assert _expand([tmp_path]) == [cells_ / "seed-0"]


def test_a_prompt_without_a_reward_does_not_empty_the_row_of_its_seed() -> None:
    results = read_results(EXAMPLE.parent)
    name, env = next(iter(results.environments.items()))
    algorithm, result = next(iter(env.algorithms.items()))
    hole = replace(result, final=[[None, *row[1:]] for row in result.final])
    changed = replace(results, environments={name: replace(env, algorithms={algorithm: hole})})
    rewards = [row["reward"] for row in csv_rows(changed)]
    assert rewards == [pytest.approx(np.mean([v for v in row[1:] if v is not None])) for row in result.final]


def test_mistakes_beside_studies_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words, said in (
        (["new", "reward", "mine", "--folder", str(tmp_path / "file")], "mine.py' cannot be written (File exists)"),
        (["doctor", "--fast"], "takes no arguments: leave out --fast"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("algorithm", "each"), [("rloo", 128.0), ("remax", None)])
def test_whatever_was_drawn_is_paid_for(tmp_path: Path, algorithm: str, each: float | None) -> None:
    """Kills leaving out what dynamic sampling threw away, and the greedy completion of each group (ReMax)."""
    (cell,) = cells(Study((algorithm,), ("reverse",), seeds=(0,), output=str(tmp_path)))
    if each is None:
        each = 128.0 + cell.config.rollout.prompts
    rows = [{"rollout/draws": 1.0}, {"rollout/draws": 3.0, "train/skipped": 0.5}, {}]
    cell.folder.mkdir(parents=True)
    lines = [json.dumps({"step": i + 1, "rollout/tokens": 1280.0, "eval/reward": 0.5, **r}) for i, r in enumerate(rows)]
    (cell.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n{")  # a line that a kill cut short
    curve = read_record(cell, "killed").training
    assert curve.samples == [0.0, each, 4 * each]
    assert curve.tokens == pytest.approx([0.0, 10 * each, 40 * each])
    updates = cell.config.learner.epochs * cell.config.learner.minibatches
    assert curve.updates == [0.0, updates, 1.5 * updates]
    assert curve.step == [0, 1, 2]


def test_a_cell_with_a_checkpoint_goes_on_from_it(tmp_path: Path) -> None:
    """Kills beginning again, which ends in the same weights and only costs the time that was saved."""
    (cell,) = cells(Study(("rloo",), ("reverse",), seeds=(0,), output=str(tmp_path)))
    write_config(cell.folder, cell.config)
    write_atomic(cell.folder / "checkpoints" / "step-2" / "manifest.json", "{}")
    write_atomic(cell.folder / "metrics.jsonl", '{"step": 1}\n{"step": 2}\n')
    assert prepared(cell.config) == replace(cell.config, resume=True)
    assert steps_of(cell.folder) == 2
    (cell.folder / "checkpoints" / "step-2").rename(cell.folder / "checkpoints" / "tmp-step-2")  # was never complete
    assert prepared(cell.config) == cell.config
    assert not cell.folder.exists()
