"""`rlalign tune`: search settings of one algorithm on one environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from rlalign.cli.console import console as make_console
from rlalign.cli.study_args import flags_of, optional_value, split_settings
from rlalign.errors import UserError


@dataclass(frozen=True)
class Args:
    """Search settings with optuna; the same command again goes on where it stopped.

    Any setting of `rlalign train` may be given for all trials: --rollout.prompts 8.
    """

    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=SPACE, repeatable: learner.lr=log:1e-4:1e-2, uniform:0:1, int:1:8, rollout.group_size=choice:4,8; none:
    the learning rate within a factor of ten of its default."""
    env: str = "reverse"
    policy: str = "gru"
    algorithm: str = "rloo"
    steps: int | None = None
    """Of every trial; None: what suits the policy."""
    trials: int = 20
    output: Path = Path("runs/tune")
    jobs: int = 0
    """Trials at once; 0: what cores and memory hold."""
    ray: str | None = None
    """Send the trials to the Ray cluster at this address; without one, start a cluster on this machine."""


def run(args: Sequence[str]) -> int:
    """Search."""
    words, settings = split_settings(optional_value(args, "--ray", "local"), flags_of(Args))
    given = tyro.cli(Args, args=words, prog="rlalign tune")
    from rlalign.compare.run_search import check_search, search
    from rlalign.compare.run_study import Placement
    from rlalign.compare.running.run_folders import refuse_unrelated_files
    from rlalign.compare.study import TUNING_SEED, Study, TuneSettings, cell_config, check_study
    from rlalign.compare.tuning.spaces import parse_search
    from rlalign.compare.tuning.trial_config import spaces_of, trial_config
    from rlalign.config.overrides import full_key
    from rlalign.storage.run_folder import RunLock
    from rlalign.training.stop_request import StopRequest

    if given.trials < 1:
        raise UserError(f"trials is {given.trials}: it must be at least 1")
    study = check_study(
        Study(
            (given.algorithm,),
            (given.env,),
            policy=given.policy,
            steps=given.steps,
            output=str(given.output),
            settings={full_key(k): v for k, v in settings.items()},
            tune=TuneSettings(given.trials, parse_search(given.search)),
        )
    )
    (env,) = study.envs
    refuse_unrelated_files(given.output, "search.json")
    placement = Placement(given.jobs, given.ray)
    placement.check(cell_config(study, env, given.algorithm, TUNING_SEED))
    configure, spaces = trial_config(study, env, given.algorithm, given.output), spaces_of(study, env, given.algorithm)
    check_search(configure, spaces)
    console = make_console()
    with RunLock(given.output), StopRequest() as stop:
        workers = placement.workers(given.policy)
        try:
            found = search(
                configure,
                spaces,
                trials=given.trials,
                folder=given.output,
                workers=workers,
                console=console,
                stop=stop,
            )
        finally:
            workers.close()
        if stop:
            console.print("stopped; the same command goes on")
            return stop.exit_status
    path = write_best(given.output, study, env, given.algorithm, found.best.settings)
    _show(console, found)
    console.print(
        f"\nreport         {given.output / 'report.html'}\nbest settings  {path}\n"
        f"train with     rlalign train --config {path}",
        soft_wrap=True,
    )
    return 0


def write_best(folder: Path, study: Any, env: str, algorithm: str, settings: Mapping[str, Any]) -> Path:
    """best.toml: what `rlalign train --config` takes."""
    from rlalign.storage.atomic import write_atomic

    values = {"env": env, "policy": study.policy, "algorithm": algorithm}
    values |= {"steps": study.steps} if study.steps else {}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    lines += [f'"{k}" = {json.dumps(v)}' for k, v in {**study.settings, **settings}.items()]
    return write_atomic(folder / "best.toml", "\n".join(lines) + "\n")


def _show(console: Console, found: Any) -> None:
    from rlalign.config.overrides import shown

    names = list(found.search)
    table = Table(title=f"{len(found.trials)} trials, best first", title_justify="left")
    for name in ("trial", "reward", "state", *names):
        table.add_column(name, justify="right")
    for t in sorted(found.trials, key=lambda t: (t.state != "complete", -(t.value if t.value is not None else 0.0))):
        values = [shown(t.settings.get(name)) for name in names]
        style = "bold" if t.number == found.best.number else "" if t.state == "complete" else "dim"
        table.add_row(str(t.number), "–" if t.value is None else f"{t.value:.3f}", t.state, *values, style=style)
    console.print(table)
    share = found.sensitivity
    if share is not None:
        console.print(
            f"{share:.0%} of the configurations gained at least 95 % of what the best one gained: "
            "the smaller, the more depends on the search."
        )
