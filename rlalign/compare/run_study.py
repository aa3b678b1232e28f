"""`rlalign compare`: run a study and analyze it, or analyze runs that exist."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlalign.api import check_config
from rlalign.compare.cell_settings import check_equal_settings
from rlalign.compare.output.write_findings import write_findings
from rlalign.compare.records.collect_runs import Exclusions, collect_runs
from rlalign.compare.results.manifest import fingerprint
from rlalign.compare.results.results_json import read_results
from rlalign.compare.results.schema import Results, Tuning
from rlalign.compare.run_search import check_search, search
from rlalign.compare.running.local_workers import LocalWorkers
from rlalign.compare.running.machine_capacity import capacity
from rlalign.compare.running.run_cells import run_cells
from rlalign.compare.running.run_folders import refuse_unrelated_files
from rlalign.compare.running.workers import Workers
from rlalign.compare.study import TUNING_SEED, Cell, Study, build_cells, check_study, label, trained_algorithms
from rlalign.compare.tuning.trial_config import spaces_of, trial_config
from rlalign.compare.warm_start import check_warm_start, note, startable, warm_start_cells
from rlalign.config.defaults import from_scratch
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import policy_path
from rlalign.storage.run_folder import RunLock
from rlalign.training.stop_request import StopRequest
from rlalign.typecheck import check_range, checked


class StoppedError(Exception):
    """A study was asked to stop.

    Args:
        status: the exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped ({status})")
        self.status = status


@dataclass(frozen=True)
class Placement:
    """The machines that execute runs.

    Attributes:
        jobs: runs at once; 0: as many as the machine or the cluster holds.
        ray: address of a Ray cluster; `local`: start a cluster on this machine; None: processes on this machine.

    Raises:
        UserError: `jobs` is negative.
    """

    jobs: int = 0
    ray: str | None = None

    def __post_init__(self) -> None:
        check_range("jobs", self.jobs, least=0, fix="use 0 for as many as the machine holds")

    def check(self, config: TrainConfig) -> None:
        """Raise UserError if a run of this configuration would be refused, before anything is written.

        Args:
            config: configuration of the run. Its device must exist on this machine, unless a Ray cluster executes it.
        """
        check_config(config)
        if self.ray is None:  # a cluster may have devices that this machine has not
            resolve_device(config.device)

    def workers(self, policy: str) -> Workers:
        """Return new workers, which execute runs of a policy; the caller closes them.

        Args:
            policy: name of the policy; with `jobs` 0, its size determines the number of runs at once.
        """
        if self.ray is not None:
            from rlalign.compare.running.ray_workers import RayWorkers

            return RayWorkers(self.ray, self.jobs)
        return LocalWorkers(self.jobs or capacity(from_scratch(policy)))


def compare_study(
    study: Study,
    *,
    command: str = "",
    placement: Placement | None = None,
    console: PlainConsole | None = None,
    allow_unequal: bool = False,
) -> Results:
    """Run a study's cells, after its searches if it has any, analyze them and write all results into its folder.

    Args:
        study: algorithms, environments, seeds and settings.
        command: the command line, for the report; empty: none.
        placement: where runs are executed; None: on this machine, as many at once as it holds.
        console: where progress is printed; None: no output.
        allow_unequal: compare cells with different budgets instead of refusing them.

    Returns:
        The results, which are also in the study's folder as results.json, report.html, CSV and plots. Cells that
        crashed are in `Results.failures`.

    Raises:
        UserError: a cell is impossible or the budgets differ. No cell has run by then.
        FaultError: every cell of an environment crashed.
        StoppedError: the study was asked to stop by a signal. The same call resumes it.
    """
    placement = placement or Placement()
    console = console or PlainConsole(quiet=True)
    study = check_study(study)
    folder = Path(study.output)
    check_warm_start(study)
    refuse_unrelated_files(folder, "cells", "tune", "warm_start", "results.json")
    _refuse_smaller(folder, "study", study.algorithms, [label(env) for env in study.envs], study.seeds)
    _check_cells(study, placement, allow_unequal)
    _check_searches(study, folder)
    with RunLock(folder), StopRequest() as stop:
        workers = placement.workers(study.policy)
        try:
            tuned, tuning = _tune(study, folder, workers, console, stop)
            warm = warm_start_cells(study)
            if warm and not stop:
                console.print(f"first the initial policies: {study.warm_start} on each environment at each seed")
            cold = run_cells(warm, workers, console, stop) if warm and not stop else {}
            cells = build_cells(study, tuned)
            ready, failed = startable(cells, cold)
            failed |= {} if stop else run_cells(ready, workers, console, stop)
        finally:
            workers.close()
        if stop:
            raise StoppedError(stop.exit_status)
        notes = note(study)
        if workers.jobs > 1 and placement.ray is None:
            notes.append(f"Seconds were measured with up to {workers.jobs} cells side by side on this machine.")
        return write_findings(
            cells, folder, command=command, failed=failed, tuning=tuning, threshold=study.threshold, notes=notes
        )


def _refuse_smaller(
    folder: Path, kind: str, algorithms: Collection[str], envs: Collection[str], seeds: Collection[int]
) -> None:
    """Raise UserError if the folder's report has cells that the new study lacks: the new report would replace it."""
    if not (folder / "results.json").is_file():
        return
    earlier = read_results(folder)
    for name, earlier_names, new in (
        ("algorithm", _algorithms(earlier), algorithms),
        ("environment", earlier.environments, envs),
        ("seed", earlier.seeds, seeds),
    ):
        missing = [str(x) for x in earlier_names if x not in new]
        if missing:
            raise UserError(
                f"'{folder}' holds a report with {name} {', '.join(missing)}, and this {kind} has not: its report "
                "would replace that one; use another --output"
            )


def _algorithms(results: Results) -> dict[str, None]:
    """Return the algorithms of all environments, in order."""
    return dict.fromkeys(name for env in results.environments.values() for name in env.algorithms)


def compare_runs(
    folders: Sequence[Path],
    output: Path,
    *,
    command: str = "",
    leave_out: Exclusions | None = None,
    threshold: float | None = None,
) -> Results:
    """Analyze runs that exist and write all results into a folder.

    Args:
        folders: run folders, folders of studies, or folders that contain these.
        output: folder for the results.
        command: the command line, for the report; empty: none.
        leave_out: the kinds of runs that are left out instead of refused: unfinished ones, ones with other settings,
            and seeds that an algorithm lacks; None: none.
        threshold: reward that counts as reached; None: halfway from the initial policy's mean to the best algorithm's.

    Raises:
        UserError: names runs that do not fit together, or the folder holds the report of a study or of other runs.
        FaultError: an environment has no finished run.
    """
    checked(float | None, threshold, "threshold")
    study = next((name for name in ("cells", "tune") if (output / name).is_dir()), None)
    if study:
        raise UserError(
            f"'{output}' holds a study ({study}), whose report this one would replace; use another --output"
        )
    refuse_unrelated_files(output, "results.json")
    cells, excluded = collect_runs(folders, leave_out or Exclusions())
    _refuse_other_runs(output, cells)
    with RunLock(output):
        return write_findings(cells, output, command=command, excluded=excluded, threshold=threshold)


def _refuse_other_runs(folder: Path, cells: Sequence[Cell]) -> None:
    """Raise UserError if the folder's report is of other runs than these cells, or of more."""
    algorithms, envs, seeds = ({getattr(cell, name) for cell in cells} for name in ("algorithm", "env", "seed"))
    _refuse_smaller(folder, "comparison", algorithms, envs, seeds)
    if not (folder / "results.json").is_file():
        return
    earlier = read_results(folder)
    # With a new algorithm, environment or seed the fingerprint differs anyway.
    more = algorithms - set(_algorithms(earlier)) or envs - set(earlier.environments) or seeds - set(earlier.seeds)
    if not more and earlier.manifest.fingerprint != fingerprint(cells):
        raise UserError(
            f"'{folder}' holds a report of runs with other settings, which this one would replace; use another --output"
        )


def _check_cells(study: Study, placement: Placement, allow_unequal: bool) -> None:
    """Raise UserError if a cell is impossible, or if cells of one environment have different budgets."""
    cells = build_cells(study)
    if not allow_unequal:
        check_equal_settings(cells)
    # Cells of one algorithm and environment differ in the seed alone, so one of each is enough.
    configs = {(cell.env, cell.algorithm): cell.config for cell in cells}
    if study.warm_start:  # their initial policies are not trained yet: the policy that is trained stands for them
        configs = {key: replace(config, policy=policy_path(study.policy)) for key, config in configs.items()}
        configs |= {(cell.env, "warm start"): cell.config for cell in warm_start_cells(study)}
    for config in configs.values():
        placement.check(config)


def _check_searches(study: Study, folder: Path) -> None:
    """Raise UserError if a search of the study is impossible."""
    if not study.tune.trials:
        return
    for env in study.envs:
        for algorithm in trained_algorithms(study):
            check_search(trial_config(study, env, algorithm, folder), spaces_of(study, env, algorithm))


def _tune(
    study: Study, folder: Path, workers: Workers, console: PlainConsole, stop: StopRequest
) -> tuple[dict[tuple[str, str], Mapping[str, Any]], list[Tuning]]:
    """Search settings for each algorithm on each environment, with a seed that no cell has, on validation prompts.

    Returns:
        (label of the environment, algorithm) -> best settings, and the summaries of the searches. Both are incomplete
        after a stop request.
    """
    tuned: dict[tuple[str, str], Mapping[str, Any]] = {}
    summaries: list[Tuning] = []
    if not study.tune.trials:
        return tuned, summaries
    searches = len(study.envs) * len(trained_algorithms(study))
    console.print(f"first a search for each algorithm on each environment: {searches} × {study.tune.trials} trials")
    for env in study.envs:
        for algorithm in trained_algorithms(study):
            search_folder = folder / "tune" / label(env) / label(algorithm)
            console.print(f"tuning {algorithm} on {label(env)}: {study.tune.trials} trials")
            results = search(
                trial_config(study, env, algorithm, search_folder),
                spaces_of(study, env, algorithm),
                trials=study.tune.trials,
                folder=search_folder,
                workers=workers,
                console=console,
                stop=stop,
            )
            if stop:
                return tuned, summaries
            tuned[label(env), algorithm] = results.best.settings
            summaries.append(results.summary(label(env), algorithm, TUNING_SEED))
    return tuned, summaries
