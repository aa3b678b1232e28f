"""The progress of a study: its plan in one line, and the estimate of the time left."""

from __future__ import annotations

from rlalign.compare.running.progress_display import plan, time_left
from rlalign.compare.study import Study, build_cells


def test_plan_and_time_left() -> None:
    cells = build_cells(Study(("rloo", "ppo"), ("reverse",), seeds=(0, 1, 2)))
    assert plan(cells, 0, 2) == "6 runs: 2 algorithms × 1 environment × 3 seeds; 2 at once"
    assert plan(cells, 4, 2) == "6 runs: 2 algorithms × 1 environment × 3 seeds; 4 of them finished already; 2 at once"
    rloo, ppo, new = ("e", "rloo"), ("e", "ppo"), ("e", "new")
    spent = {rloo: [1.0, 3.0], ppo: [8.0]}
    assert time_left(spent, [rloo, rloo, ppo], [], 2) == (2 + 2 + 8) / 2
    assert time_left(spent, [new], [(rloo, 1.5)], 1) == 4 + 0.5  # a new kind takes the mean of all
    assert time_left(spent, [], [(ppo, 1.0), (rloo, 9.0)], 2) == 7.0  # at least the longest of the running ones
