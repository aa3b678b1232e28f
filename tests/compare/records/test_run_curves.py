"""Learning curves of runs: the budgets that they count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlalign.compare.records.run_records import read_record
from rlalign.compare.study import Study, build_cells


@pytest.mark.parametrize(("algorithm", "samples"), [("rloo", 128.0), ("remax", None)])
def test_all_drawn_samples_count(tmp_path: Path, algorithm: str, samples: float | None) -> None:
    """Fails without the samples that dynamic sampling discards and the greedy completion of each group (ReMax)."""
    (cell,) = build_cells(Study((algorithm,), ("reverse",), seeds=(0,), output=str(tmp_path)))
    if samples is None:
        samples = 128.0 + cell.config.rollout.prompts
    rows = [{"rollout/draws": 1.0}, {"rollout/draws": 3.0, "train/skipped": 0.5}, {}]
    cell.folder.mkdir(parents=True)
    lines = [json.dumps({"step": i + 1, "rollout/tokens": 1280.0, "eval/reward": 0.5, **r}) for i, r in enumerate(rows)]
    (cell.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n{")  # a kill cut the last line
    curve = read_record(cell, "killed").training
    assert curve.samples == [0.0, samples, 4 * samples]
    assert curve.tokens == pytest.approx([0.0, 10 * samples, 40 * samples])
    updates = cell.config.learner.epochs * cell.config.learner.minibatches
    assert curve.updates == [0.0, updates, 1.5 * updates]
    assert curve.step == [0, 1, 2]
