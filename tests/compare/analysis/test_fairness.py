"""Warnings and errors about competitors that were measured differently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlalign.compare.analysis.fairness import unequal_draws
from rlalign.compare.output.write_findings import write_findings
from rlalign.compare.records.run_records import read_record
from rlalign.compare.results.results_json import read_results
from rlalign.compare.study import Cell
from rlalign.errors import UserError
from rlalign.run import Run

DATA = Path(__file__).parents[2] / "data"


def test_more_samples_in_as_many_steps_give_a_warning() -> None:
    results = read_results(DATA)
    env = next(iter(results.environments.values()))
    first, second = list(env.algorithms)[:2]
    assert unequal_draws({"e": env}) == []
    result = env.algorithms[second]
    curves = [replace(c, samples=(1.5 * np.array(c.samples)).tolist()) for c in result.curves]
    changed = replace(env, algorithms={**env.algorithms, second: replace(result, curves=curves)})
    (sentence,) = unequal_draws({"e": changed})
    assert sentence.startswith(f"On e, {second} drew 1.50 times the samples that {first} drew in as many steps")


def test_cells_measured_on_different_prompts_raise_an_error(early_stopped_run: Run, tmp_path: Path) -> None:
    run = early_stopped_run
    a, b = (Cell("reverse", name, 0, replace(run.config, output=str(run.folder))) for name in ("a", "b"))
    assert read_record(a).prompts
    text = (run.folder / "report" / "evaluation.json").read_text()
    other = tmp_path / "other"
    (other / "report").mkdir(parents=True)
    (other / "report" / "evaluation.json").write_text(text.replace('"prompt": "', '"prompt": "x'))
    b = replace(b, config=replace(b.config, output=str(other)))
    with pytest.raises(UserError, match="other' was measured on other held-out prompts than"):
        write_findings([a, b], tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()
