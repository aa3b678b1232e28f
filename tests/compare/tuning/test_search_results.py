"""Files of a search, and other files of run folders, after a kill during writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.compare.tuning.search_results import SearchResults, read_search, write_search, write_trials
from rlalign.config.defaults import default_config
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import Evaluation
from rlalign.storage import atomic
from rlalign.storage.run_folder import read_config, write_config

EMPTY = Evaluation({"reward": np.zeros((1, 1))}, ["p"], [["c"]])


def test_a_kill_during_writing_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if files are written in place: the search could not be resumed."""
    base = default_config("reverse", "gru", "grpo")
    write_search(tmp_path, {"learner.lr": "log:1e-4:1e-2"}, base, 0)
    before = (tmp_path / "search.json").read_text()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", killed)
    for write in (
        lambda: write_search(tmp_path, {}, base, 0),
        lambda: write_trials(tmp_path, SearchResults({}, base, [], None)),
        lambda: write_config(tmp_path, base),
        lambda: write_comparison(tmp_path, Comparison(EMPTY, EMPTY)),  # a partial file would leave a TRL run unfinished
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert (tmp_path / "search.json").read_text() == before
    assert not [path for path in tmp_path.rglob("*.json") if path.name != "search.json"]


def test_a_search_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Fails if the shared configuration is read without migration: a search could be neither resumed nor reported."""
    run = Path(__file__).parents[2] / "data" / "run_format_1"
    base = json.loads((run / "config.json").read_text())
    (tmp_path / "search.json").write_text(json.dumps({"search": {"learner.lr": "log:1e-4:1e-2"}, "base": base}))
    assert read_search(tmp_path) == ({"learner.lr": "log:1e-4:1e-2"}, read_config(run), 0)
    write_search(tmp_path, {}, read_config(run), 0)
    assert read_search(tmp_path) == ({}, read_config(run), 0)
