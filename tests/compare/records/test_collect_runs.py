"""Comparison of existing runs: equal numbers to those of their study, and runs that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlalign.compare.records.collect_runs import Exclusions, _run_folders, collect_runs
from rlalign.compare.results.results_json import read_results
from rlalign.compare.results.schema import Results
from rlalign.compare.run_study import compare_runs
from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage.run_folder import read_config

NOTHING = Exclusions()
SEEDS = 5


def compare(runs: dict[str, Path], tmp_path: Path, leave_out: Exclusions = NOTHING) -> Results:
    """Return the results of a comparison of run folders."""
    return compare_runs(list(runs.values()), tmp_path / "out", command="", leave_out=leave_out)


def test_existing_runs_give_the_numbers_of_their_study(
    finished_study: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    mixed = [runs[name] for name in ("grpo-1", "rloo-0", "grpo-0", "rloo-1")]  # not sorted by seed
    results = compare_runs(mixed, tmp_path / "out", leave_out=NOTHING)
    assert results.seeds == [0, 1]
    grpo = results.environments["reverse"].algorithms["grpo"]
    assert grpo.final == read_results(finished_study).environments["reverse"].algorithms["grpo"].final[:2]


def test_the_folder_of_a_study_means_all_of_its_cells(finished_study: Path, tmp_path: Path, without_clock: Any) -> None:
    results = compare_runs([finished_study], tmp_path / "out", command="", leave_out=Exclusions())
    ours, theirs = (
        without_clock(r)["environments"]["reverse"]["algorithms"] for r in (results, read_results(finished_study))
    )
    assert ours == theirs


def test_an_unfinished_run_raises_an_error_unless_excluded(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["grpo-1"] / "report" / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"grpo-1' is not finished.*--exclude-unfinished"):
        compare(runs, tmp_path)
    with pytest.raises(UserError, match=r"grpo on reverse has no seed 1.*--exclude-incomplete"):
        compare(runs, tmp_path, Exclusions(unfinished=True))
    results = compare(runs, tmp_path, Exclusions(unfinished=True, incomplete=True))
    assert results.seeds == [0]
    assert {(f.algorithm, f.seed) for f in results.excluded} == {("grpo", 1), ("rloo", 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 2}, "steps 2 where others have 3"),
        ({"policy": "tiny"}, "policy 'tiny' where others have 'gru'"),
        ({"rollout": {"prompts": 1}}, "samples per step 8 where others have 128"),
    ],
)
def test_a_run_with_another_budget_raises_an_error_unless_excluded(
    runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = runs["grpo-1"] / "config.json"
    data = json.loads(path.read_text())
    for key, value in change.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"grpo-1' has {message}.*--exclude-mixed"):
        compare(runs, tmp_path)
    results = compare(runs, tmp_path, Exclusions(mixed=True, incomplete=True))
    assert message in results.excluded[0].reason
    assert results.seeds == [0]


def test_a_run_on_another_environment_raises_an_error(runs: dict[str, Path], tmp_path: Path) -> None:
    path = runs["grpo-1"] / "config.json"
    path.write_text(path.read_text().replace("rlalign/Reverse-v0", "rlalign/Copy-v0"))
    with pytest.raises(UserError, match=r"grpo-1' does not fit: rloo has no run on copy.*--exclude-mixed"):
        compare(runs, tmp_path)


def test_the_error_names_the_folder_of_a_run_that_does_not_fit(runs: dict[str, Path], tmp_path: Path) -> None:
    """The error names the smaller group of runs, not the folder of the missing one."""
    shutil.copytree(runs["grpo-1"], tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    for old, new, message in (
        ('"lr": 0.003', '"lr": 0.5', r"odd' does not fit: grpo \(lr 0.5\) on reverse has no seed 0"),
        ("rlalign/Reverse-v0", "rlalign/Copy-v0", "odd' does not fit: rloo has no run on copy"),
        ('"seed": 1', '"seed": 7', "odd' does not fit: rloo on reverse has no seed 7"),
    ):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=message):
            compare({**runs, "odd": path.parent}, tmp_path)
        path.write_text(text)


def test_a_folder_of_runs_means_all_of_its_runs(finished_study: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    assert {cell.folder for cell in collect_runs([tmp_path], NOTHING)[0]} == set(runs.values())
    assert len(collect_runs([finished_study.parent], NOTHING)[0]) == 2 * SEEDS
    for folder, message in (
        (finished_study / "cells" / "reverse", "got neither"),
        (tmp_path / "no", "expected run folders.*got '.*no'"),
    ):
        with pytest.raises(UserError, match=message):
            collect_runs([folder], NOTHING)


def test_two_runs_of_one_experiment_raise_an_error(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["grpo-1"], tmp_path / "again")
    with pytest.raises(UserError, match="the same experiment at the same seed"):
        compare({**runs, "again": tmp_path / "again"}, tmp_path)


def test_one_algorithm_with_two_settings_is_two_competitors(runs: dict[str, Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        path = runs[f"grpo-{seed}"] / "config.json"
        config = read_config(path.parent)
        data = json.loads((runs[f"rloo-{seed}"] / "config.json").read_text())
        data["learner"]["lr"] = 0.5
        path.write_text(json.dumps(data))
        assert config.algorithm == "grpo"
    assert compare(runs, tmp_path).algorithms == ["rloo (lr 0.003)", "rloo (lr 0.5)"]


def test_a_partially_transferred_run_from_a_cluster_is_ignored(early_stopped_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "reverse" / "rloo"
    for name in ("seed-0", ".seed-0.new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text((early_stopped_run.folder / "config.json").read_text())
    assert _run_folders([tmp_path]) == [folder / "seed-0"]


def test_a_comparison_replaces_neither_a_study_nor_a_report_of_other_runs(
    finished_study: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    report = (finished_study / "report.html").read_bytes()
    with pytest.raises(UserError, match=r"holds a study \(cells\).*use another --output"):
        compare_runs([finished_study], finished_study)
    assert (finished_study / "report.html").read_bytes() == report
    compare_runs([runs["grpo-0"], runs["rloo-0"]], tmp_path / "out")
    compare(runs, tmp_path)  # a superset may replace the report
    compare(runs, tmp_path)
    with pytest.raises(UserError, match="holds a report with seed 0, and this comparison has not"):
        compare_runs([runs["grpo-1"], runs["rloo-1"]], tmp_path / "out")
    with pytest.raises(UserError, match="holds a report with algorithm grpo"):
        compare_runs([runs["rloo-0"], runs["rloo-1"]], tmp_path / "out")
    for folder in runs.values():
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["learner"]["lr"] = 0.5
        path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="holds a report of runs with other settings"):
        compare(runs, tmp_path)
