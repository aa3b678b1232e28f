"""`rlalign compare` from the command to the results: outputs, failures, errors, searches before the comparison."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlalign.cli import main
from rlalign.compare.output.plots import write_plots
from rlalign.compare.results.results_json import read_results
from rlalign.compare.run_study import compare_study
from rlalign.compare.study import Study
from rlalign.compare.study_file import study_from_mapping
from rlalign.errors import FaultError, UserError
from rlalign.run import Run
from rlalign.storage.run_folder import RunLock, read_config

SEEDS = 5


def broken_algorithm(folder: Path) -> str:
    """Write an algorithm whose loss is not finite, beside the study's folder, and return its name."""
    file = folder.parent / f"{folder.name}.py"
    file.write_text(
        "from rlalign.objective import Objective, baseline\n"
        "@baseline('infinite')\n"
        "def infinite(returns, batch):\n"
        "    return returns / 0\n"
        "BROKEN = Objective(baseline='infinite')\n"
    )
    return f"{file}:BROKEN"


@pytest.mark.pictures
def test_the_pictures_of_a_study_are_drawn(finished_study: Path, tmp_path: Path) -> None:
    pictures = write_plots(tmp_path, read_results(finished_study))
    assert len(pictures) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in pictures)


def test_all_outputs_are_written(finished_study: Path) -> None:
    results = read_results(finished_study)
    names = {path.name for path in finished_study.iterdir()}
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
    with (finished_study / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * SEEDS
    assert results.verdict
    assert "80 % power" in results.verdict[-1]


def test_algorithms_share_initial_policy_and_prompts_at_each_seed(finished_study: Path) -> None:
    """Paired comparisons need equal initial weights, held-out prompts and prompt order at a seed."""
    env = read_results(finished_study).environments["reverse"]
    rloo, grpo = env.algorithms["rloo"], env.algorithms["grpo"]
    assert rloo.start == grpo.start
    assert rloo.start[0] != rloo.start[1]
    first = [Run(finished_study / "cells" / "reverse" / a / "seed-0").samples[0]["prompt"] for a in ("rloo", "grpo")]
    assert first[0] == first[1]
    assert not [w for w in read_results(finished_study).warnings if "same policy" in w]


def test_the_folder_of_another_study_raises_an_error(finished_study: Path, same_study: Any) -> None:
    study = same_study(finished_study)
    other = Study(study.algorithms, study.envs, seeds=study.seeds, steps=3, output=study.output, settings={"lr": 0.5})
    with pytest.raises(UserError, match="use another --output"):
        compare_study(other, command="")


@pytest.mark.parametrize(
    ("part", "missing"), [({"algorithms": ("rloo",)}, "algorithm grpo"), ({"seeds": (0,)}, "seed 1")]
)
def test_a_part_of_a_study_does_not_replace_its_report(
    finished_study: Path, same_study: Any, part: dict[str, Any], missing: str
) -> None:
    before = (finished_study / "report.html").read_bytes()
    with pytest.raises(UserError, match=f"holds a report with {missing}"):
        compare_study(replace(same_study(finished_study), **part))
    assert (finished_study / "report.html").read_bytes() == before


def test_a_crashed_cell_is_reported_and_scored_as_the_initial_policy(tmp_path: Path) -> None:
    """Updates without a finite loss end the runs of one of the two algorithms."""
    study = Study(
        ("rloo", "grpo"),
        ("reverse",),
        seeds=(0, 1),
        steps=1,
        output=str(tmp_path),
        settings={"evaluation.prompts": 8, "learner.max_bad_updates": 1},
        algorithm={"grpo": {"preset": broken_algorithm(tmp_path)}},
    )
    results = compare_study(study, command="")
    assert {(f.algorithm, f.seed) for f in results.failures} == {("grpo", 0), ("grpo", 1)}
    assert "expected finite numbers" in results.failures[0].reason
    grpo = results.environments["reverse"].algorithms["grpo"]
    assert grpo.failed == [True, True]
    assert grpo.final == grpo.start
    assert grpo.to_threshold == {} or not any(grpo.to_threshold["samples"].reached)
    assert any("2 cells failed" in warning for warning in results.warnings)
    (pair,) = results.environments["reverse"].pairs
    assert (pair.difference.value, pair.p, pair.winner, pair.detectable) == (None, None, None, None)
    assert results.verdict == ["grpo failed at every seed on reverse and is not compared there."]
    assert pair.failed == ["grpo"]
    assert main(["report", str(tmp_path)]) == 0


def test_a_study_without_a_finished_cell_raises_with_the_reason(tmp_path: Path) -> None:
    algorithm = {"rloo": {"preset": broken_algorithm(tmp_path)}}
    settings = {"learner.max_bad_updates": 1}
    study = Study(
        ("rloo",), ("reverse",), seeds=(0,), steps=1, output=str(tmp_path), settings=settings, algorithm=algorithm
    )
    with pytest.raises(FaultError, match=r"every cell on reverse failed.*expected finite numbers"):
        compare_study(study, command="")


def test_unknown_names_and_unequal_budgets_raise_an_error_before_a_run(tmp_path: Path) -> None:
    def study(**changes: object) -> Study:
        data = {"algorithms": ["rloo", "grpo"], "envs": ["reverse"], "output": str(tmp_path / "out"), **changes}
        return study_from_mapping(data)

    for broken, message in (
        (study(algorithms=["rlo"]), "Did you mean 'rloo'"),
        (study(envs=["revers"]), "Did you mean 'rlalign/Reverse-v0'"),
        (study(settings={"rewards": "vadr"}), "Did you mean 'vader'"),
        (
            study(algorithm={"grpo": {"steps": 7}}),
            "grpo on reverse: expected steps 200 as for rloo, got 7.*--allow-unequal",
        ),
        (study(settings={"objective.ratio": "none", "learner.epochs": 2}), "on reverse: 2 epochs"),
        (study(policy="grru"), "unknown policy 'grru'. Did you mean 'gru'"),
        (study(policy="./nowhere"), "no folder './nowhere'"),
        (study(settings={"model.adapter.r": 4}), "got LoRA of rank 4"),
        (study(algorithms=["grpo", "trl:grpo"]), "expected a transformers model for trl:grpo, got 'gru'"),
        (
            study(algorithms=["grpo", "trl:grpo"], envs=["guess_number"], policy="tiny"),
            "expected a single turn for TRL",
        ),
        (
            study(algorithms=["trl:grpo"], policy="tiny", settings={"objective.scale": "whiten"}),
            "objective.scale: expected batch_std, group_std or none for trl:grpo, got whiten",
        ),
        (study(settings={"supervised.align_interval": 1}, envs=["alignment"]), "answer"),
    ):
        with pytest.raises(UserError, match=message):
            compare_study(broken, command="")
        assert not (tmp_path / "out").exists()


def test_each_algorithm_gets_the_same_search_before_the_comparison(tmp_path: Path) -> None:
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


def test_two_comparisons_cannot_write_into_one_folder(early_stopped_run: Run, tmp_path: Path, capsys: Any) -> None:
    run = str(early_stopped_run.folder)
    for arguments in ([run], ["--algorithms", "rloo", "--envs", "reverse"]):
        with RunLock(tmp_path / "out"):
            assert main(["compare", *arguments, "--output", str(tmp_path / "out")]) == 2
        assert "is in use by process" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["compare", run, "--output", str(tmp_path / "file")]) == 2
    assert "file' cannot be created (File exists)" in capsys.readouterr().err


def test_a_missing_device_raises_an_error_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails if only the runs check the device. No machine that runs these tests has `xpu:7`."""
    for command in (["compare", "--algorithms", "rloo,grpo", "--envs", "reverse"], ["tune"]):
        assert main([*command, "--output", str(tmp_path / "out"), "--device", "xpu:7"]) == 2
        err = capsys.readouterr().err
        assert "device 'xpu:7' cannot be used here" in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--jobs", "-1"],
            "jobs: expected at least 0, got -1",
        ),  # without the check, the command would wait for runs that never start
        (["--threshold", "nan"], "threshold: expected a finite number, got nan"),
        (["--steps", "0"], "steps: expected at least 1, got 0"),
        (["--ray", "nonsense"], "expected the address of a running Ray cluster, got 'nonsense'"),
    ],
)
def test_impossible_numbers_raise_an_error_before_a_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    command = ["compare", "--algorithms", "rloo,grpo", "--envs", "reverse", "--output", str(tmp_path / "cmp")]
    assert main([*command, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runs/a runs/b --threshold nan", "threshold: expected a finite number, got nan"),
        ("runs/a --seeds 3", "runs that exist are taken as they are: leave out --seeds"),
        (
            "runs/a --steps 3 --policy gru --jobs 2",
            "runs that exist are taken as they are: leave out --policy, --steps, --jobs",
        ),
        (
            "runs/a --tune 3 --search lr=log:1:2 --ray",
            "runs that exist are taken as they are: leave out --ray, --tune, --search",
        ),
        (
            "runs/a --allow-unequal --learner.lr 3",
            "runs that exist are taken as they are: leave out --allow-unequal, --learner.lr",
        ),
        (
            "runs/a --algorithms rloo --envs reverse",
            "runs that exist are taken as they are: leave out --algorithms, --envs",
        ),
        ("--algorithms rloo --envs reverse --exclude-mixed", "a study makes its own runs: leave out --exclude-mixed"),
        ("study.toml runs/a", "'study.toml' is a study file"),
        ("nothere.toml", "'nothere.toml' cannot be read (No such file or directory)"),
        ("--algorithms rloo --envs reverse --seeds -3", "expected a count of at least 1 or a list of seeds, got -3"),
        ("--algorithms rloo --envs reverse --seeds=", "--seeds: expected a number of seeds or a list"),
        ("--algorithms rloo --envs reverse --search lr=log:1:2", "use --tune N"),
    ],
)
def test_flags_without_effect_raise_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
