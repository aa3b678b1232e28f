"""The optuna study of a search: its journal in a folder, and trials that report their learning curves to it.

Needs optuna (`pip install -c constraints.txt -e '.[tune]'`).
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.compare.records.run_records import final_reward, finished
from rlalign.config.overrides import shown
from rlalign.config.schema import TrainConfig
from rlalign.escaping.console import PlainConsole, line
from rlalign.registry import import_optional
from rlalign.storage.jsonl import read_metrics
from rlalign.training.stop_request import STOPPED

_UNPRUNED_TRIALS = 5  # trials that are never pruned, since the median of fewer curves is unreliable


class RunningTrial:
    """A trial whose run has started.

    Args:
        trial: optuna's trial.
        config: configuration of its run.
    """

    def __init__(self, trial: Any, config: TrainConfig) -> None:
        self.trial = trial
        self.config = config
        self.folder = Path(str(config.output))
        self.name = f"trial-{trial.number}"
        self.pruned = False
        self._rows_read = 0

    def report(self) -> bool:
        """Report new points of the learning curve to optuna and return whether the trial is pruned.

        The decision to prune is final, even if later rewards are higher.
        """
        rows = read_metrics(self.folder)
        for row in rows[self._rows_read :]:
            value = row.get("eval/reward")
            if value is not None and not self.pruned:
                self.trial.report(value, int(row["step"]))
                self.pruned = self.trial.should_prune()
        self._rows_read = max(self._rows_read, len(rows))
        return self.pruned


def load_optuna() -> Any:
    """Return optuna with its log restricted to errors. Raises UserError if it is not installed."""
    optuna = import_optional("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(folder: Path, warmup: int) -> Any:
    """Return the optuna study whose journal is in a folder; create it if there is none.

    Args:
        folder: folder of the search.
        warmup: steps before which no trial is pruned.
    """
    optuna = load_optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna calls the journal experimental
        return optuna.create_study(
            study_name="tune",
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=warmup),
        )


def unfinished_trials(study: Any) -> list[Any]:
    """Return the trials that were running when an earlier attempt at the search ended."""
    optuna = load_optuna()
    running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    return [optuna.trial.Trial(study, trial._trial_id) for trial in running]


def has_waiting_trial(study: Any) -> bool:
    """Return whether a trial was put into the queue and has not started, which a kill may leave behind."""
    return bool(study.get_trials(states=(load_optuna().trial.TrialState.WAITING,)))


def use_sampler(study: Any, seed: int) -> None:
    """Give a study a new TPE sampler for its next trial.

    The journal does not contain the sampler's random state. One seed per trial makes a resumed search equal to an
    uninterrupted one. The seeds are mixed: the first draws of numpy's generators with the seeds 0 to 3 are alike.
    """
    mixed = int(np.random.SeedSequence([seed, len(study.trials)]).generate_state(1)[0])
    study.sampler = load_optuna().samplers.TPESampler(seed=mixed, constant_liar=True)


def fail_trial(study: Any, trial: Any) -> None:
    """Record that a trial failed."""
    study.tell(trial, state=load_optuna().trial.TrialState.FAIL)


def end_trial(study: Any, running: RunningTrial, status: int, reason: str, console: PlainConsole) -> None:
    """Record the end of a trial: pruned, complete with the mean held-out reward, failed, or interrupted.

    An interrupted trial stays running in the journal, so that the next attempt resumes it.

    Args:
        study: the optuna study.
        running: the trial.
        status: exit status of its run.
        reason: why the run failed.
        console: for the result.
    """
    trial = running.trial
    if running.pruned:
        study.tell(trial, state=load_optuna().trial.TrialState.PRUNED)
    elif status == 0 and finished(running.folder):
        value = final_reward(running.folder)
        if math.isfinite(value):
            study.tell(trial, value)
            settings = ", ".join(f"{key} {shown(setting, 3)}" for key, setting in trial.params.items())
            console.print(f"trial {trial.number}: reward {value:+.3f}  {settings}", soft_wrap=True)
        else:
            fail_trial(study, trial)
    elif status not in STOPPED:
        console.print(line(("failed", "red"), f" trial {trial.number}: {reason}"), soft_wrap=True)
        fail_trial(study, trial)
