"""The report of a search: each trial is drawn against each setting, the best is marked, all text is escaped."""

from __future__ import annotations

import re
from pathlib import Path

from rlalign.cli import main
from rlalign.compare.output.html.search import render
from rlalign.compare.tuning.search_results import SearchResults, Trial, read_search_results, write_search, write_trials
from rlalign.config.defaults import default_config

SEARCH = {"learner.lr": "log:1e-4:1e-2", "objective.baseline": "choice:none,<b>", "learner.epochs": "int:1:4"}
TRIALS = [
    Trial(0, "complete", 0.2, {"learner.lr": 1e-4, "objective.baseline": "none", "learner.epochs": 1}),
    Trial(1, "complete", 0.9, {"learner.lr": 1e-3, "objective.baseline": "<b>", "learner.epochs": 2}),
    Trial(2, "pruned", 0.95, {"learner.lr": 1e-2, "objective.baseline": "none", "learner.epochs": 4}),
    Trial(3, "fail", None, {"learner.lr": 2e-3, "objective.baseline": "none", "learner.epochs": 4}),
]
RESULTS = SearchResults(SEARCH, default_config("reverse", "gru", "grpo"), TRIALS, 0.1)


def test_the_best_trial_is_a_finished_one_and_each_is_drawn_against_each_setting() -> None:
    """A pruned trial's last value may be higher, but it is not the value of a finished run."""
    page = render(RESULTS)
    assert "Trial 1 has the highest held-out reward: 0.900, 0.100 before training." in page
    assert "25\u00a0% of the trials reached at least" in page  # one of four
    drawings = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawings) == 1 + len(SEARCH)
    for drawing in drawings:
        assert len(re.findall(r'<circle[^>]* class="(?:dot|seed)', drawing)) == 3
        assert len(re.findall(r'class="seed failed', drawing)) == 1
        assert len(re.findall(r'class="dot ', drawing)) == 1
    assert "<b>&lt;b&gt;</b>" in page
    assert not re.search(r"https?:", page)


def test_a_choice_among_numbers_is_drawn_in_any_notation() -> None:
    trials = [Trial(i, "complete", 0.1 * i, {"learner.lr": lr}) for i, lr in enumerate((1e-5, 1e-4, 0.00123456))]
    page = render(SearchResults({"learner.lr": "choice:1e-5,1e-4,0.00123456"}, RESULTS.base, trials, 0.1))
    _, against = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(re.findall(r'<circle[^>]* class="(?:dot|seed)', against)) == 3


def test_a_report_from_stored_trials_is_the_same(tmp_path: Path) -> None:
    write_search(tmp_path, RESULTS.search, RESULTS.base, 0)
    write_trials(tmp_path, RESULTS)
    assert read_search_results(tmp_path) == RESULTS
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == render(RESULTS)


def test_a_search_without_a_finished_trial_has_a_report() -> None:
    page = render(
        SearchResults(SEARCH, RESULTS.base, [Trial(0, "fail", None, {}), Trial(1, "running", None, {})], None)
    )
    assert "No trial finished." in page
    assert "<svg" not in page
