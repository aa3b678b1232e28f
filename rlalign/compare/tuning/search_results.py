"""What a search found: its trials, the best of them, how much depends on the settings; as stored in its folder.

search.json     the spaces, and the configuration that every trial starts from
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
from rlalign.config.serialize import from_dict, to_dict
from rlalign.errors import FaultError
from rlalign.storage.atomic import read_json, write_atomic

_NEAR = 0.95
_SEARCH, _TRIALS = "search.json", "trials.json"
_AGAIN = "remove it, and the same rlalign tune goes on"


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried; the value of a pruned one is the last that was seen."""

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class SearchResults:
    """What a search found.

    Attributes:
        search: setting -> space.
        base: what the runs have where a trial says nothing else.
        trials: in the order in which they began.
        start: held-out reward before training.
    """

    search: dict[str, str]
    base: TrainConfig
    trials: list[Trial]
    start: float | None

    @property
    def done(self) -> list[Trial]:
        """The finished trials, the best first."""
        done = [(t.value, t) for t in self.trials if t.state == "complete" and t.value is not None]
        return [t for _, t in sorted(done, key=lambda pair: -pair[0])]

    @property
    def best(self) -> Trial:
        """The finished trial that ended highest. Raises FaultError when none finished."""
        if not self.done:
            raise FaultError("no trial finished: look into the logs beside the trials' folders")
        return self.done[0]

    @property
    def sensitivity(self) -> float | None:
        """Share of all trials whose improvement is within 95 % of the best one's; pruned and failed ones are not."""
        best = self.best.value
        if best is None or self.start is None or best <= self.start:
            return None
        least = self.start + _NEAR * (best - self.start)
        return sum(t.value is not None and t.value >= least for t in self.done) / len(self.trials)

    def count(self, state: str) -> int:
        """Trials that are `complete`, `pruned`, `fail` or `running`."""
        return sum(t.state == state for t in self.trials)

    def summary(self, env: str, algorithm: str, seed: int) -> Tuning:
        """For results.json."""
        best = self.best
        return Tuning(
            env=env,
            algorithm=algorithm,
            trials=len(self.trials),
            pruned=self.count("pruned"),
            failed=self.count("fail"),
            seed=seed,
            search=self.search,
            best={k: str(v) for k, v in best.settings.items()},
            best_value=best.value,
            sensitivity=self.sensitivity,
        )


def holds_search(folder: Path) -> bool:
    """True for the folder of a search that has ended, or was stopped."""
    return (folder / _SEARCH).is_file() and (folder / _TRIALS).is_file()


def write_search(folder: Path, search: Mapping[str, str], base: TrainConfig) -> None:
    """Write down what is searched."""
    _write(folder / _SEARCH, {"search": dict(search), "base": to_dict(base)})


def read_search(folder: Path) -> tuple[dict[str, str], TrainConfig] | None:
    """What is searched, or None where nothing is. Raises UserError for what an incompatible version wrote."""
    if not (folder / _SEARCH).is_file():
        return None
    data = read_json(folder / _SEARCH, _AGAIN)
    return data.get("search", {}), from_dict(TrainConfig, data.get("base", {}))


def write_trials(folder: Path, found: SearchResults) -> None:
    """Write down what was found."""
    _write(folder / _TRIALS, {"start": found.start, "trials": [asdict(t) for t in found.trials]})


def read_search_results(folder: Path) -> SearchResults:
    """What was found, of a folder for which `holds_search` is true."""
    data = read_json(folder / _TRIALS, _AGAIN)
    search, base = read_search(folder) or ({}, TrainConfig())
    return SearchResults(search, base, [Trial(**t) for t in data["trials"]], data["start"])


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(data, indent=1) + "\n")
