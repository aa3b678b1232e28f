"""Results of a search: its trials, the best of them, and the sensitivity to settings; stored in its folder.

search.json     the spaces and the configuration that all trials share
trials.json     the trials
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlalign.compare.results.schema import Tuning
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_json, to_json
from rlalign.errors import FaultError
from rlalign.storage.atomic import read_json, write_atomic

_NEAR_BEST = 0.95  # share of the best improvement
_SEARCH_FILE = "search.json"
_TRIALS_FILE = "trials.json"
_FIX = "remove it and repeat the same rlalign tune command, which resumes the search"


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        number: index in the search.
        state: complete, pruned, fail or running.
        value: mean held-out reward; for a trial that is not complete, the last that it reported, or None.
        settings: values of the searched settings.
    """

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class SearchResults:
    """Results of a search.

    Attributes:
        search: setting -> space.
        base: configuration of the runs apart from the searched settings.
        trials: in the order in which they started.
        start: held-out reward before training.
    """

    search: dict[str, str]
    base: TrainConfig
    trials: list[Trial]
    start: float | None

    @property
    def done(self) -> list[Trial]:
        """The complete trials, the best first."""
        values = [
            (trial.value, trial) for trial in self.trials if trial.state == "complete" and trial.value is not None
        ]
        return [trial for _, trial in sorted(values, key=lambda pair: -pair[0])]

    @property
    def best(self) -> Trial:
        """The complete trial with the highest value. Raises FaultError if no trial is complete."""
        if not self.done:
            raise FaultError("expected at least one complete trial, got none; see the logs beside the trials' folders")
        return self.done[0]

    @property
    def sensitivity(self) -> float | None:
        """Share of all trials whose improvement is at least 95 % of the best one's.

        Pruned and failed trials count in the denominator only. None if no trial improved.
        """
        best = self.best.value
        if best is None or self.start is None or best <= self.start:
            return None
        least = self.start + _NEAR_BEST * (best - self.start)
        return sum(trial.value is not None and trial.value >= least for trial in self.done) / len(self.trials)

    def count(self, state: str) -> int:
        """Return the number of trials that are `complete`, `pruned`, `fail` or `running`."""
        return sum(trial.state == state for trial in self.trials)

    def summary(self, env: str, algorithm: str, seed: int) -> Tuning:
        """Return the summary for results.json."""
        best = self.best
        return Tuning(
            env=env,
            algorithm=algorithm,
            trials=len(self.trials),
            pruned=self.count("pruned"),
            failed=self.count("fail"),
            seed=seed,
            search=self.search,
            best={key: str(value) for key, value in best.settings.items()},
            best_value=best.value,
            sensitivity=self.sensitivity,
        )


def holds_search(folder: Path) -> bool:
    """Return whether a folder holds a search that has ended or was stopped."""
    return (folder / _SEARCH_FILE).is_file() and (folder / _TRIALS_FILE).is_file()


def write_search(folder: Path, search: Mapping[str, str], base: TrainConfig, seed: int) -> None:
    """Write the spaces, the shared configuration and the seed of a search."""
    _write(folder / _SEARCH_FILE, {"search": dict(search), "seed": seed, "base": to_json(base)})


def read_search(folder: Path) -> tuple[dict[str, str], TrainConfig, int] | None:
    """Return the spaces, the shared configuration and the seed of a search; None if the folder holds none.

    Raises:
        UserError: the file is damaged, or of a format newer than this version writes.
    """
    if not (folder / _SEARCH_FILE).is_file():
        return None
    data = read_json(folder / _SEARCH_FILE, _FIX)
    return data.get("search", {}), from_json(data.get("base", {})), data.get("seed", 0)


def write_trials(folder: Path, results: SearchResults) -> None:
    """Write the trials of a search."""
    _write(folder / _TRIALS_FILE, {"start": results.start, "trials": [asdict(trial) for trial in results.trials]})


def read_search_results(folder: Path) -> SearchResults:
    """Return the results of a search, from a folder for which `holds_search` is true.

    Raises:
        UserError: a file is damaged.
    """
    data = read_json(folder / _TRIALS_FILE, _FIX)
    search, base, _ = read_search(folder) or ({}, TrainConfig(), 0)
    return SearchResults(search, base, [Trial(**trial) for trial in data["trials"]], data["start"])


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(data, indent=1) + "\n")
