"""Records of a run that early stopping ended, and its evaluation."""

from __future__ import annotations

import json

import pytest

from rlalign.cli import main
from rlalign.compare.records.run_records import finished
from rlalign.compare.running.progress_display import steps_of
from rlalign.run import Run


def test_a_run_ended_by_early_stopping_is_finished(early_stopped_run: Run) -> None:
    """Fails if its last step is expected: it would never be finished, and the advice would be to resume it."""
    folder = early_stopped_run.folder
    assert 0 < steps_of(folder) < 10
    assert finished(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert not finished(folder)
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_another_evaluation_does_not_change_the_evaluation_of_the_run(early_stopped_run: Run) -> None:
    """Fails if a validation on other prompts replaces it: a study would use that one."""
    report = early_stopped_run.folder / "report"
    own = (report / "evaluation.json").read_bytes()
    early_stopped_run.evaluate(split="validation", prompts=2)
    assert (report / "evaluation.json").read_bytes() == own
    assert len(json.loads((report / "evaluation-validation.json").read_text())["samples"]) == 2


def test_a_damaged_evaluation_raises_an_error_that_names_it(
    early_stopped_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = early_stopped_run.folder / "report" / "evaluation.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert main(["report", str(early_stopped_run.folder)]) == 2
    assert "evaluation.json' is damaged" in capsys.readouterr().err
    path.write_text(text)
