"""Settings of cells: equal budgets of all presets, and the settings that differ."""

from __future__ import annotations

from pathlib import Path

from rlalign.algorithms import ALGORITHMS
from rlalign.compare.cell_settings import check_equal_settings, setting_differences
from rlalign.compare.study import Study, build_cells


def test_all_presets_get_the_same_number_of_samples(tmp_path: Path) -> None:
    study = Study(tuple(ALGORITHMS), ("reverse",), seeds=(0,), output=str(tmp_path))
    check_equal_settings(build_cells(study))
    assert {cell.config.samples_per_step for cell in build_cells(study)} == {128}


def test_differences_begin_with_the_axes_and_contain_no_equal_setting() -> None:
    differences = setting_differences(build_cells(Study(("grpo", "dr_grpo"), ("reverse",), seeds=(0, 1))))
    # a policy trained from scratch has no KL term
    assert {d.key for d in differences if d.axis} == {"objective.scale", "objective.aggregation"}
    with_kl = Study(("grpo", "dr_grpo"), ("reverse",), seeds=(0,), settings={"objective.kl.coef": 0.1})
    assert differences[0].axis
    assert "objective.kl.estimator" in {d.key for d in setting_differences(build_cells(with_kl))}
    reuse = setting_differences(build_cells(Study(("rloo", "ppo"), ("reverse",), seeds=(0,))))
    assert next(d for d in reuse if d.key == "learner.epochs").values == {"rloo": "1", "ppo": "4"}
    assert not next(d for d in reuse if d.key == "learner.epochs").axis
