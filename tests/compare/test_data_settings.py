"""Recorded data in a study: it reaches the algorithms that learn from it, as what they learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlalign.compare.analysis.fairness import recorded_samples
from rlalign.compare.cell_settings import check_equal_settings
from rlalign.compare.data_settings import settings_for
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import Curve
from rlalign.compare.study import Cell, Study, build_cells
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError

ALL = ("sft", "trl:sft", "dpo", "trl:dpo", "kto", "trl:kto", "grpo", "best_of_n", "trl:grpo")
SAMPLING = ("grpo", "best_of_n", "trl:grpo")


def data(folder: Path, **row: Any) -> str:
    path = folder / "data.jsonl"
    path.write_text(json.dumps({"prompt": "ab>", **row}) + "\n")
    return str(path)


def configs(study: Study) -> dict[str, TrainConfig]:
    return {cell.algorithm: cell.config for cell in build_cells(study)}


def test_data_of_the_study_reaches_the_algorithms_that_learn_from_it(tmp_path) -> None:
    source = data(tmp_path, chosen="ba", rejected="b")
    study = Study(ALL, ("reverse",), "tiny", (0,), settings={"data": source, "recorded.held_out": 0.2})
    cells = build_cells(study)
    check_equal_settings(cells)  # equal samples: rows, pairs and groups of one step have as many completions
    by_name = {cell.algorithm: cell.config for cell in cells}
    for name, config in by_name.items():
        assert config.data == (None if name in SAMPLING else source), name
        assert config.recorded.held_out == (0.1 if name in SAMPLING else 0.2)
        assert config.env == "reverse"
    # of pairs, imitation reads the chosen side
    kinds = {name: config.recorded.kind for name, config in by_name.items() if config.recorded.kind != "auto"}
    assert kinds == {"sft": "demonstrations", "trl:sft": "demonstrations"}


def test_data_that_an_algorithm_names_itself_is_logged_rewards(tmp_path) -> None:
    source = data(tmp_path, completion="ba", reward=1.0)
    study = Study(("rloo", "grpo"), ("reverse",), "tiny", (0,), algorithm={"rloo": {"data": source}})
    assert {name: config.data for name, config in configs(study).items()} == {"rloo": source, "grpo": None}
    of_env = Study(("sft", "grpo"), ("reverse",), "tiny", (0,), env={"reverse": {"data": source}})
    assert {name: config.data for name, config in configs(of_env).items()} == {"sft": source, "grpo": None}


@pytest.mark.parametrize(
    ("algorithm", "keys"), [("sft", {"data", "kind", "lr"}), ("dpo", {"data", "lr"}), ("ppo", {"lr"})]
)
def test_a_kind_reaches_the_algorithms_that_learn_from_it(algorithm, keys) -> None:
    settings = {"data": "a.jsonl", "kind": "demonstrations", "lr": 0.1}
    assert set(settings_for(algorithm, {k if k != "kind" else "recorded.kind": v for k, v in settings.items()})) == {
        key if key != "kind" else "recorded.kind" for key in keys
    }


@pytest.mark.parametrize(("algorithm", "rows"), [("sft", 12), ("trl:kto", 12), ("dpo", 6), ("grpo", 3)])
def test_prompts_and_samples_of_a_study_are_rows_and_pairs_of_data(algorithm, rows) -> None:
    settings = settings_for(algorithm, {"rollout.prompts": "3", "group_size": 4})
    assert int(settings["rollout.prompts"]) == rows
    assert ("group_size" in settings) == (algorithm == "grpo")
    alone = settings_for(algorithm, {"group_size": 4})
    assert alone == ({"group_size": 4} if algorithm == "grpo" else {})


def test_a_teacher_reaches_the_algorithms_that_learn_from_one() -> None:
    settings = {"teacher": "big", "distill.reward_coef": 0.5, "steps": 3}
    assert settings_for("distill", settings) == settings
    assert settings_for("grpo", settings) == settings_for("best_of_n", settings) == {"steps": 3}


def test_a_file_that_is_missing_is_named_with_the_cell(tmp_path) -> None:
    study = Study(("sft",), ("reverse",), "tiny", (0,), settings={"data": str(tmp_path / "absent.jsonl")})
    with pytest.raises(UserError, match=r"sft on reverse: .*absent\.jsonl"):
        build_cells(study)


def test_the_report_says_whose_samples_were_read(tmp_path) -> None:
    source = data(tmp_path, chosen="ba", rejected="b")
    empty = Curve([], [], [], [], [], [], [])

    def records(*algorithms: str) -> list[Record]:
        cells: list[Cell] = build_cells(Study(algorithms, ("reverse",), "tiny", (0,), settings={"data": source}))
        return [Record(cell, None, {}, {}, [], None, empty) for cell in cells]

    (sentence,) = recorded_samples(records("dpo", "kto", "grpo", "best_of_n"))
    assert sentence.startswith("dpo, kto learn from recorded data (data.jsonl), not from samples")
    assert recorded_samples(records("dpo", "trl:dpo")) == recorded_samples(records("grpo", "best_of_n")) == []
