"""`rlalign tune`: resumed searches, and searches rejected before the first trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlalign.cli import main
from rlalign.cli.train import parse
from rlalign.compare.run_search import check_search
from rlalign.compare.study import Study, cell_config


def test_a_search_is_resumed_and_its_best_settings_are_a_config_of_train(
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
    best = max(trials, key=lambda trial: trial["value"])
    page = (folder / "report.html").read_text()
    assert f"Trial {best['number']} has the highest held-out reward" in page
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page
    config = parse(["--config", str(folder / "best.toml"), "--steps", "9"])
    assert config.learner.lr == best["settings"]["learner.lr"]
    assert (config.algorithm, config.policy, config.steps, config.samples_per_step) == ("grpo", "gru", 9, 128)
    assert config.rollout.group_size == best["settings"]["rollout.group_size"]
    for changed, message in (
        (["--search", "lr=log:1e-5:1e-2"], "holds a search over"),
        (["--steps", "3"], "holds a search with steps 2, not 3"),
        (["--seed", "1"], "holds a search with seed 0, not 1"),
        (["--env", "copy"], "holds a search with env 'rlalign/Reverse-v0', not 'rlalign/Copy-v0'"),
        (["--algorithm", "dr_grpo"], "holds a search with algorithm 'grpo', not 'dr_grpo'"),
        (["--policy", "tiny"], "holds a search with policy 'gru', not 'tiny'"),
        (["--learner.beta1", "0.8"], "holds a search with learner.beta1 0.9, not 0.8"),
    ):
        assert main(["tune", *flags, "--trials", "4", *changed]) == 2
        assert message in capsys.readouterr().err
    assert json.loads((folder / "trials.json").read_text())["trials"] == trials


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("group_size=choice:4,5", "search for rollout.group_size: no run can have 5: rloo on reverse"),
        ("group_size=choice:4,x", "no run can have 'x'"),
        (
            "objective.baseline=choice:leave_one_out,none,men",
            "no run can have 'men': rloo on reverse",
        ),
        ("lr=uniform:-1:1", "search for learner.lr: no run can have -0.998"),
        ("seed=int:1:3", "expected a setting, got 'seed', which identifies a cell"),
        ("lrr=log:1e-4:1e-2", "unknown setting 'lrr'. Did you mean 'lr'"),
        ("zzz=log:1e-4:1e-2", "unknown setting 'zzz'. rlalign train --help lists them."),
    ],
)
def test_impossible_values_raise_an_error_before_the_first_trial(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, message: str
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    for command in (["tune"], ["compare", "--algorithms", "rloo", "--envs", "reverse", "--tune", "2"]):
        assert main([*command, "--search", search]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_valid_in_one_combination_are_accepted() -> None:
    """A trust region and two epochs both require a ratio, so they are valid only together with it."""
    pytest.importorskip("optuna")
    study = Study(("rloo",), ("reverse",), seeds=(0,))
    spaces = {"objective.ratio": "choice:none,token", "objective.trust.kind": "choice:none,clip", "lr": "uniform:0:1"}
    check_search(lambda _, settings: cell_config(study, "reverse", "rloo", 0, settings), spaces)
