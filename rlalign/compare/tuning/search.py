"""A search for settings: trials are ordinary runs, pruned while they run by the median of the others' curves.

The search's memory is a journal in its folder, so that a kill costs the trials under way at most: they go on from their
checkpoints, or begin again. Needs optuna (`pip install 'rlalign[tune]'`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.compare.output.html.search import write_search_report
from rlalign.compare.records.run_records import final_reward, finished
from rlalign.compare.running.grid import changes, prepared, refuse_other
from rlalign.compare.running.workers import Workers
from rlalign.compare.tuning.search_results import SearchResults, Trial, read_search, write_search, write_trials
from rlalign.compare.tuning.spaces import check_values, distributions
from rlalign.config.overrides import shown
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.jsonl import read_metrics
from rlalign.training.stop_request import STOPPED, StopRequest

_LOOK = 0.2  # seconds between two looks at the trials
_FREE_TRIALS = 5  # that are never pruned, since a median of fewer says little

Configure = Callable[[int, Mapping[str, Any]], TrainConfig]
"""(number of a trial, settings) -> its configuration."""


def check_search(configure: Configure, spaces: Mapping[str, str]) -> None:
    """Refuse a search that cannot be read or tries what no run can have, and one without optuna. Raises UserError."""
    _optuna()
    check_values(lambda settings: configure(0, settings), distributions(spaces))


def search(
    configure: Configure,
    spaces: Mapping[str, str],
    *,
    trials: int,
    folder: Path,
    workers: Workers,
    console: Console,
    seed: int = 0,
    stop: StopRequest | None = None,
) -> SearchResults:
    """Run trials until there are as many as asked; the same call goes on with what is there.

    Args:
        configure: makes a trial's configuration; its run folder must lie under `folder`.
        spaces: setting -> space (see spaces.py).
        trials: how many in all.
        folder: of the search.
        workers: where runs are sent.
        console: where to say what happens.
        seed: of the sampler.
        stop: set from outside to leave early.

    Raises:
        UserError: for a space that cannot be read, or a folder of another search.
    """
    optuna = _optuna()
    stop = StopRequest() if stop is None else stop
    spaces_ = distributions(spaces)
    base = configure(0, {})
    _remember(folder, spaces, base)
    study = _study(optuna, folder, warmup=base.steps // 4)
    under_way: dict[str, _Live] = {}
    left = [optuna.trial.Trial(study, t._trial_id) for t in study.get_trials(states=(optuna.trial.TrialState.RUNNING,))]

    def begin(trial: Any) -> None:
        try:
            config = configure(trial.number, trial.params)
        except UserError as error:
            console.print(f"trial {trial.number}: {error}", soft_wrap=True)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        live = _Live(trial, config)
        refuse_other(live.folder, config)
        if finished(live.folder):
            _end(optuna, study, live, 0, "", console)
            return
        workers.start(live.name, prepared(config))
        under_way[live.name] = live

    while not stop:
        while len(under_way) < workers.jobs and (left or len(study.trials) < trials):
            if not left:  # the sampler's generator is not in the journal: a seed a trial makes a resumed search equal
                study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), constant_liar=True)
            begin(left.pop(0) if left else study.ask(spaces_))
        if not under_way:
            break
        for ended in workers.wait(_LOOK):
            live = under_way.pop(ended.name)
            live.look()
            _end(optuna, study, live, ended.status, ended.reason, console)
        for live in under_way.values():
            if live.look():
                workers.stop(live.name)
    if stop:
        workers.close()
    found = _found(study, configure, spaces, base)
    write_trials(folder, found)
    write_search_report(folder)
    return found


class _Live:
    """A trial under way."""

    def __init__(self, trial: Any, config: TrainConfig) -> None:
        self.trial, self.config = trial, config
        self.folder, self.name = Path(str(config.output)), f"trial-{trial.number}"
        self.pruned = False
        self._seen = 0

    def look(self) -> bool:
        """Report what is new on the curve; true when the trial should stop. A decision stands, whatever follows."""
        rows = read_metrics(self.folder)
        for row in rows[self._seen :]:
            value = row.get("eval/reward")
            if value is not None and not self.pruned:
                self.trial.report(value, int(row["step"]))
                self.pruned = self.trial.should_prune()
        self._seen = max(self._seen, len(rows))
        return self.pruned


def _end(optuna: Any, study: Any, live: _Live, status: int, reason: str, console: Console) -> None:
    states = optuna.trial.TrialState
    if live.pruned:
        study.tell(live.trial, state=states.PRUNED)
    elif status == 0 and finished(live.folder):
        value = final_reward(live.folder)
        if math.isfinite(value):
            study.tell(live.trial, value)
            settings = ", ".join(f"{k} {shown(v, 3)}" for k, v in live.trial.params.items())
            console.print(f"trial {live.trial.number}: reward {value:+.3f}  {settings}", soft_wrap=True)
        else:
            study.tell(live.trial, state=states.FAIL)
    elif status in STOPPED:
        return  # asked to stop: it stays under way in the journal
    else:
        console.print(f"[red]failed[/] trial {live.trial.number}: {reason}", soft_wrap=True)
        study.tell(live.trial, state=states.FAIL)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("optuna is not installed: pip install 'rlalign[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna: Any, folder: Path, warmup: int) -> Any:
    import warnings

    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.create_study(
            study_name="tune",
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FREE_TRIALS, n_warmup_steps=warmup),
        )


def _remember(folder: Path, spaces: Mapping[str, str], base: TrainConfig) -> None:
    """Refuse to go on with another search, or one of other runs, in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if old := read_search(folder):
        if old[0] != dict(spaces):
            raise UserError(f"'{folder}' holds a search over {old[0]}, not {dict(spaces)}: choose another --output")
        if changed := changes(old[1], base):
            raise UserError(f"'{folder}' holds a search with {changed}: choose another --output")
    write_search(folder, spaces, base)


def _found(study: Any, configure: Configure, spaces: Mapping[str, str], base: TrainConfig) -> SearchResults:
    trials, start = [], None
    for t in study.trials:
        last = t.intermediate_values[max(t.intermediate_values)] if t.intermediate_values else None
        trials.append(Trial(t.number, t.state.name.lower(), t.value if t.state.name == "COMPLETE" else last, t.params))
        if start is None and t.state.name == "COMPLETE":
            start = final_reward(Path(str(configure(t.number, t.params).output)), "before")
    return SearchResults(dict(spaces), base, trials, start)
