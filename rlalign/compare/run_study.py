"""The command's work: a study from the question to the report, or runs that exist already."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.api import check_config
from rlalign.compare.analysis.fairness import check_budgets
from rlalign.compare.output.write_findings import write_findings
from rlalign.compare.records.collect_runs import Excluding, gather
from rlalign.compare.results.schema import Results, Tuning
from rlalign.compare.running.grid import refuse_foreign, run_cells
from rlalign.compare.running.workers import LocalWorkers, Workers, capacity
from rlalign.compare.study import TUNING_SEED, Study, cell_config, cells, check, label
from rlalign.compare.tuning.search import Configure, check_search, search
from rlalign.compare.tuning.spaces import default_search
from rlalign.config.defaults import from_scratch
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.policies.device import resolve_device
from rlalign.storage.run_folder import RunLock
from rlalign.training.stop_request import StopRequest
from rlalign.typecheck import checked


class StoppedError(Exception):
    """A study that was asked to stop; `status` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped ({status})")
        self.status = status


@dataclass(frozen=True)
class Placement:
    """Where cells run: how many at once (0: what the machine holds), and on which Ray cluster (None: here)."""

    jobs: int = 0
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise UserError(f"jobs is {self.jobs}: give how many runs at once, or 0 for what the machine holds")

    def check(self, config: TrainConfig) -> None:
        """Refuse, before anything is made, what a run of this configuration would refuse there. Raises UserError."""
        check_config(config)
        if self.ray is None:  # a cluster may have what this machine has not
            resolve_device(config.device)

    def workers(self, policy: str) -> Workers:
        """What runs them, for runs of a policy."""
        if self.ray is not None:
            from rlalign.compare.running.ray_cluster import RayWorkers

            return RayWorkers(self.ray, self.jobs)
        return LocalWorkers(self.jobs or capacity(from_scratch(policy)))


def compare_study(
    study: Study,
    *,
    command: str = "",
    placement: Placement | None = None,
    console: Console | None = None,
    allow_unequal: bool = False,
) -> Results:
    """Run a study's cells, tuned first where it says so, analyse them and write everything into its output folder.

    Args:
        study: the question.
        command: what was typed, for the report.
        placement: how many runs at once, here or on a cluster; None: here, as many as the machine holds.
        console: where to say what happens; None: nowhere.
        allow_unequal: compare although budgets differ.

    Raises:
        UserError: for what is impossible or unfair, before a cell runs.
        StoppedError: when it was asked to stop; the same call goes on.
    """
    placement, console = placement or Placement(), console or Console(quiet=True)
    study = check(study)
    folder = Path(study.output)
    refuse_foreign(folder, "cells", "tune", "results.json")
    asked = cells(study)
    if not allow_unequal:
        check_budgets(asked)
    for config in {(c.env, c.algorithm): c.config for c in asked}.values():
        placement.check(config)
    for env, name in itertools.product(study.envs, study.algorithms) if study.tune.trials else ():
        check_search(trial_config(study, env, name, folder), spaces_of(study, env, name))
    with RunLock(folder), StopRequest() as stop:
        workers = placement.workers(study.policy)
        try:
            tuned, tuning = _tune(study, folder, workers, console, stop)
            grid = cells(study, tuned)
            failed = {} if stop else run_cells(grid, workers, console, stop)
        finally:
            workers.close()
        if stop:
            raise StoppedError(stop.exit_status)
        notes = []
        if workers.jobs > 1 and placement.ray is None:
            notes = [f"Seconds were measured with up to {workers.jobs} cells side by side on this machine."]
        return write_findings(
            grid, folder, command=command, failed=failed, tuning=tuning, threshold=study.threshold, notes=notes
        )


def compare_runs(
    folders: Sequence[Path],
    output: Path,
    *,
    command: str = "",
    leave_out: Excluding | None = None,
    threshold: float | None = None,
) -> Results:
    """Analyse runs that exist already and write everything into a folder.

    Args:
        folders: run folders, folders of studies, or folders of either.
        output: where to write.
        command: what was typed, for the report.
        leave_out: what may be left out rather than refused; None: nothing.
        threshold: reward that counts as reached; None: half the way from the start to the best algorithm's mean.

    Raises:
        UserError: naming what does not fit together.
    """
    checked(float | None, threshold, "threshold")
    refuse_foreign(output, "results.json")
    found, excluded = gather(folders, leave_out or Excluding())
    with RunLock(output):
        return write_findings(found, output, command=command, excluded=excluded, threshold=threshold)


def _tune(
    study: Study, folder: Path, workers: Workers, console: Console, stop: StopRequest
) -> tuple[dict[tuple[str, str], Mapping[str, Any]], list[Tuning]]:
    """The same search for each algorithm on each environment, at a seed that no cell has, on validation prompts."""
    tuned: dict[tuple[str, str], Mapping[str, Any]] = {}
    summaries: list[Tuning] = []
    if not study.tune.trials:
        return tuned, summaries
    searches = len(study.envs) * len(study.algorithms)
    console.print(f"first a search for each algorithm on each environment: {searches} × {study.tune.trials} trials")
    for env in study.envs:
        for name in study.algorithms:
            at = folder / "tune" / label(env) / label(name)
            console.print(f"tuning {name} on {label(env)}: {study.tune.trials} trials")
            found = search(
                trial_config(study, env, name, at),
                spaces_of(study, env, name),
                trials=study.tune.trials,
                folder=at,
                workers=workers,
                console=console,
                stop=stop,
            )
            if stop:
                return tuned, summaries
            tuned[label(env), name] = found.best.settings
            summaries.append(found.summary(label(env), name, TUNING_SEED))
    return tuned, summaries


def spaces_of(study: Study, env: str, algorithm: str) -> Mapping[str, str]:
    """What a search for an algorithm on an environment looks through."""
    return study.tune.search or default_search(cell_config(study, env, algorithm, TUNING_SEED).learner.lr)


def trial_config(study: Study, env: str, algorithm: str, folder: Path) -> Configure:
    """Number and settings of a trial -> its run, on validation prompts, in a folder of the search."""

    def configure(number: int, settings: Mapping[str, Any]) -> TrainConfig:
        config = cell_config(study, env, algorithm, TUNING_SEED, settings)
        return replace(
            config,
            output=str(folder / "trials" / str(number)),
            evaluation=replace(config.evaluation, split="validation"),
        )

    return configure
