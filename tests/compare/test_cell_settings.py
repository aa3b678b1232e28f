"""Settings of cells: equal budgets of all presets."""

from __future__ import annotations

from pathlib import Path

from rlalign.algorithms import sampling_presets
from rlalign.compare.cell_settings import check_equal_settings
from rlalign.compare.study import Study, build_cells


def test_all_presets_get_the_same_number_of_samples(tmp_path: Path) -> None:
    study = Study(tuple(sampling_presets()), ("reverse",), seeds=(0,), output=str(tmp_path))
    check_equal_settings(build_cells(study))
    assert {cell.config.samples_per_step for cell in build_cells(study)} == {128}
