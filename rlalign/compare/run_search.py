"""`rlalign tune`: search settings of one algorithm on one environment.

Trials are ordinary runs. A trial is pruned while it runs if its learning curve is below the median of the others. The
search is recorded in a journal in its folder: a kill affects only the running trials, which are resumed from their
checkpoints or start again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.compare.output.html.search import write_search_report
from rlalign.compare.records.run_records import final_reward, finished
from rlalign.compare.running.run_folders import describe_changes, prepare_run, refuse_other_run
from rlalign.compare.running.workers import Workers
from rlalign.compare.tuning.first_trials import first_trials
from rlalign.compare.tuning.optuna_study import (
    RunningTrial,
    end_trial,
    fail_trial,
    has_waiting_trial,
    load_optuna,
    open_study,
    unfinished_trials,
    use_sampler,
)
from rlalign.compare.tuning.search_results import SearchResults, Trial, read_search, write_search, write_trials
from rlalign.compare.tuning.spaces import check_values, distributions
from rlalign.compare.tuning.trial_config import Configure
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.training.stop_request import StopRequest

_POLL_SECONDS = 0.2  # longest wait for a trial to end before all learning curves are read again


def check_search(configure: Configure, spaces: Mapping[str, str]) -> None:
    """Raise UserError if optuna is missing, a space cannot be parsed, or a value is impossible for every run."""
    load_optuna()
    check_values(lambda settings: configure(0, settings), distributions(spaces))


def search(
    configure: Configure,
    spaces: Mapping[str, str],
    *,
    trials: int,
    folder: Path,
    workers: Workers,
    console: PlainConsole,
    seed: int = 0,
    stop: StopRequest | None = None,
) -> SearchResults:
    """Run trials until there are `trials` of them; the same call resumes an interrupted search.

    Args:
        configure: returns a trial's configuration; its run folder must lie under `folder`.
        spaces: setting -> space, see `tuning.spaces`.
        trials: total number of trials.
        folder: folder of the search.
        workers: executors of the runs.
        console: for progress.
        seed: of the settings that are drawn. It is stored: a search continues with its own.
        stop: request to stop, set from outside.

    Raises:
        UserError: a space cannot be parsed, or the folder holds another search.
    """
    load_optuna()
    stop = StopRequest() if stop is None else stop
    space_of = distributions(spaces)
    base = configure(0, {})
    _record_search(folder, spaces, base, seed)
    points = first_trials(space_of, base, seed)
    study = open_study(folder, warmup=base.steps // 4)
    running: dict[str, RunningTrial] = {}
    interrupted = unfinished_trials(study)

    def start(trial: Any) -> None:
        try:
            config = configure(trial.number, trial.params)
        except UserError as error:
            console.print(f"trial {trial.number}: {error}", soft_wrap=True)
            fail_trial(study, trial)
            return
        started = RunningTrial(trial, config)
        refuse_other_run(started.folder, config)
        if finished(started.folder):
            end_trial(study, started, 0, "", console)
            return
        workers.start(started.name, prepare_run(config))
        running[started.name] = started

    while not stop:
        while len(running) < workers.jobs and (interrupted or len(study.trials) < trials):
            if interrupted:
                start(interrupted.pop(0))
            else:
                use_sampler(study, seed)
                if not has_waiting_trial(study) and len(study.trials) < len(points):
                    study.enqueue_trial(points[len(study.trials)])
                start(study.ask(space_of))
        if not running:
            break
        for ended in workers.wait(_POLL_SECONDS):
            trial = running.pop(ended.name)
            trial.report()
            end_trial(study, trial, ended.status, ended.reason, console)
        for trial in running.values():
            if trial.report():
                workers.stop(trial.name)
    if stop:
        workers.close()
    results = _results(study, configure, spaces, base)
    write_trials(folder, results)
    write_search_report(folder)
    return results


def _record_search(folder: Path, spaces: Mapping[str, str], base: TrainConfig, seed: int) -> None:
    """Write the spaces and the base configuration; raise UserError if the folder holds a search with others."""
    folder.mkdir(parents=True, exist_ok=True)
    recorded = read_search(folder)
    if recorded:
        recorded_spaces, recorded_base, recorded_seed = recorded
        if recorded_spaces != dict(spaces):
            raise UserError(
                f"'{folder}' holds a search over {recorded_spaces}, not {dict(spaces)}; use another --output"
            )
        changes = describe_changes(recorded_base, base)
        if changes:
            raise UserError(f"'{folder}' holds a search with {changes}; use another --output")
        if recorded_seed != seed:
            raise UserError(
                f"'{folder}' holds a search with seed {recorded_seed}, not {seed}; use another --output, or its seed"
            )
    write_search(folder, spaces, base, seed)


def _results(study: Any, configure: Configure, spaces: Mapping[str, str], base: TrainConfig) -> SearchResults:
    """Return the trials of the optuna study, and the held-out reward before training from the first complete one."""
    trials = []
    start = None
    for trial in study.trials:
        complete = trial.state.name == "COMPLETE"
        curve = trial.intermediate_values
        last = curve[max(curve)] if curve else None
        trials.append(Trial(trial.number, trial.state.name.lower(), trial.value if complete else last, trial.params))
        if start is None and complete:
            start = final_reward(Path(str(configure(trial.number, trial.params).output)), "before")
    return SearchResults(dict(spaces), base, trials, start)
