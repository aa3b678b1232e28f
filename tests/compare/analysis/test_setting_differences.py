"""Settings that differ between algorithms."""

from __future__ import annotations

from rlalign.compare.analysis.setting_differences import setting_differences
from rlalign.compare.study import Study, build_cells


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
