"""Warm starts: runs that train the initial policies of a study's cells, one per environment and seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlalign.compare.cell_settings import check_equal_settings, settings_of
from rlalign.compare.run_study import Placement, compare_runs, compare_study
from rlalign.compare.study import Study, TuneSettings, build_cells, check_study
from rlalign.compare.warm_start import startable, warm_start_cells
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.storage.jsonl import read_metrics

ENV = "reverse?max_length=2"


def study_of(folder: Path) -> Study:
    source = make_mdp(ENV).source
    tasks = [source.get("train", i) for i in range(20)]
    data = folder / "chat.jsonl"
    data.write_text("".join(json.dumps({"prompt": t.prompt, "completion": t.columns["answer"]}) + "\n" for t in tasks))
    small = {"evaluation.prompts": 2, "model.hidden_size": 16, "rollout.max_new": 4, "model.adapter.kind": "none"}
    return Study(
        ("grpo", "reinforce"), (ENV,), "tiny", (0, 1), steps=1, output=str(folder / "study"), warm_start="sft",
        settings=small, algorithm={"sft": {"data": str(data), "steps": 3}},
    )  # fmt: skip


def test_each_cell_begins_with_the_policy_of_the_warm_start_at_its_seed(tmp_path) -> None:
    study = check_study(study_of(tmp_path))
    warm, cells = warm_start_cells(study), build_cells(study)
    assert [(cell.seed, cell.config.policy, cell.config.steps) for cell in warm] == [(0, "tiny", 3), (1, "tiny", 3)]
    folders = {cell.seed: str(cell.folder / "policy") for cell in warm}
    assert [cell.config.policy for cell in cells] == [folders[cell.seed] for cell in cells]
    assert len(set(folders.values())) == 2
    check_equal_settings(cells)
    assert settings_of(cells[0].config)["policy"] == settings_of(cells[2].config)["policy"]
    assert warm_start_cells(replace(study, warm_start="", algorithm={})) == []


def test_a_failed_warm_start_fails_the_cells_of_its_seed(tmp_path) -> None:
    study = check_study(study_of(tmp_path))
    cells = build_cells(study)
    ready, failed = startable(cells, {warm_start_cells(study)[1].name: "killed by SIGKILL"})
    assert {cell.seed for cell in ready} == {0}
    assert failed == {
        c.name: "no initial policy, its warm start failed: killed by SIGKILL" for c in cells if c.seed == 1
    }


def test_a_warm_start_needs_a_study_without_search(tmp_path) -> None:
    study = replace(study_of(tmp_path), tune=TuneSettings(2))
    with pytest.raises(UserError, match="warm_start sft: expected no search, got 2 trials"):
        compare_study(study)
    unknown = replace(study_of(tmp_path), algorithm={"sfd": {}})
    with pytest.raises(UserError, match=r"expected a name of the study, got 'sfd'\. Did you mean 'sft'"):
        check_study(unknown)


def test_a_study_trains_its_initial_policies_first_and_keeps_them(tmp_path) -> None:
    study = replace(study_of(tmp_path), seeds=(0,))
    results = compare_study(study, placement=Placement(jobs=1))
    assert not results.failures
    assert any(sentence.startswith("Each run began with the policy of a run of sft") for sentence in results.warnings)
    folder = tmp_path / "study"
    warm = next((folder / "warm_start").rglob("config.json")).parent
    assert len(read_metrics(warm)) == 3
    written = (warm / "policy" / "policy.json").stat().st_mtime_ns
    after = json.loads((warm / "report" / "evaluation.json").read_text())["metrics"]["reward"]["after"]
    for cell in build_cells(check_study(study)):
        before = json.loads((cell.folder / "report" / "evaluation.json").read_text())["metrics"]["reward"]["before"]
        assert before == pytest.approx(after)  # the same prompts, sampled at the same seed
    compare_study(study, placement=Placement(jobs=1))
    assert (warm / "policy" / "policy.json").stat().st_mtime_ns == written
    assert set(compare_runs([folder], tmp_path / "again").algorithms) == {"grpo", "reinforce"}
