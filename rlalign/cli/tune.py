"""`rlalign tune`: search for good settings of one algorithm in one environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from rlalign.cli.arguments import flags_of, optional_value, parse_arguments, split_settings
from rlalign.cli.console import console as make_console
from rlalign.escaping.console import PlainConsole
from rlalign.typecheck import check_range


@dataclass(frozen=True)
class Args:
    """Search for good settings with Optuna. The same command resumes an interrupted search.

    Each setting of `rlalign train` is accepted and applies to all trials: --rollout.prompts 8.
    """

    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=SPACE, repeatable: learner.lr=log:1e-4:1e-2, uniform:0:1, int:1:8, rollout.group_size=choice:4,8;
    without: the learning rate within a factor of ten of its default."""
    env: str = "reverse"
    """Environment of all trials."""
    policy: str = "gru"
    """Policy of all trials."""
    algorithm: str = "rloo"
    """Algorithm of all trials."""
    steps: int | None = None
    """Training steps per trial; None: the policy's default."""
    trials: int = 20
    """Number of trials of the whole search, those of earlier calls included; at least 1."""
    seed: int = 0
    """Seed of the settings that are drawn; the first trial is the default setting. 0 or more."""
    output: Path = Path("runs/tune")
    """Output folder."""
    jobs: int = 0
    """Number of parallel trials; 0: as many as cores and memory allow."""
    ray: str | None = None
    """Send the trials to the Ray cluster at this address; without an address, start a cluster on this machine. None:
    run processes on this machine."""


def run(args: Sequence[str]) -> int:
    """Search; return 0, or 128 + n if signal n stopped the search."""
    own, settings = split_settings(optional_value(args, "--ray", "local"), flags_of(Args))
    arguments = parse_arguments(Args, own, prog="rlalign tune")
    from rlalign.compare.run_search import check_search, search
    from rlalign.compare.run_study import Placement
    from rlalign.compare.running.run_folders import refuse_unrelated_files
    from rlalign.compare.study import TUNING_SEED, Study, TuneSettings, cell_config, check_study
    from rlalign.compare.tuning.spaces import parse_search
    from rlalign.compare.tuning.trial_config import spaces_of, trial_config
    from rlalign.config.overrides import full_key
    from rlalign.storage.run_folder import RunLock
    from rlalign.training.stop_request import StopRequest

    check_range("trials", arguments.trials, least=1)
    check_range("seed", arguments.seed, least=0)
    study = check_study(
        Study(
            (arguments.algorithm,),
            (arguments.env,),
            policy=arguments.policy,
            steps=arguments.steps,
            output=str(arguments.output),
            settings={full_key(k): v for k, v in settings.items()},
            tune=TuneSettings(arguments.trials, parse_search(arguments.search)),
        )
    )
    (env,) = study.envs
    refuse_unrelated_files(arguments.output, "search.json")
    placement = Placement(arguments.jobs, arguments.ray)
    # refuse an impossible search before anything is written
    placement.check(cell_config(study, env, arguments.algorithm, TUNING_SEED))
    configure = trial_config(study, env, arguments.algorithm, arguments.output)
    spaces = spaces_of(study, env, arguments.algorithm)
    check_search(configure, spaces)
    console = make_console()
    with RunLock(arguments.output), StopRequest() as stop:
        workers = placement.workers(arguments.policy)
        try:
            results = search(
                configure,
                spaces,
                trials=arguments.trials,
                folder=arguments.output,
                workers=workers,
                console=console,
                seed=arguments.seed,
                stop=stop,
            )
        finally:
            workers.close()
        if stop:
            console.print("stopped; run the same command to resume")
            return stop.exit_status
    path = write_best(arguments.output, study, env, arguments.algorithm, results.best.settings)
    _print_trials(console, results)
    console.print(
        f"\nreport         {arguments.output / 'report.html'}\nbest settings  {path}\n"
        f"train with     rlalign train --config {path}",
        soft_wrap=True,
    )
    return 0


def write_best(folder: Path, study: Any, env: str, algorithm: str, settings: Mapping[str, Any]) -> Path:
    """Write best.toml, a file for `rlalign train --config`, and return its path."""
    from rlalign.storage.atomic import write_atomic

    values = {"env": env, "policy": study.policy, "algorithm": algorithm}
    if study.steps:
        values["steps"] = study.steps
    # JSON numbers, strings and lists are valid TOML. A quoted key keeps its dots instead of opening a table.
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    lines += [f'"{name}" = {json.dumps(value)}' for name, value in {**study.settings, **settings}.items()]
    return write_atomic(folder / "best.toml", "\n".join(lines) + "\n")


def _print_trials(console: PlainConsole, results: Any) -> None:
    """Print the trials, best first, and the sensitivity to the searched settings."""
    from rlalign.config.overrides import shown

    names = list(results.search)
    table = Table(title=f"{len(results.trials)} trials, best first", title_justify="left")
    for column in ("trial", "reward", "state", *names):
        table.add_column(column, justify="right")
    for trial in sorted(results.trials, key=_rank):
        reward = "–" if trial.value is None else f"{trial.value:.3f}"
        values = [shown(trial.settings.get(name)) for name in names]
        table.add_row(str(trial.number), reward, trial.state, *values, style=_style(trial, results.best.number))
    console.print(table)
    if results.sensitivity is not None:
        console.print(
            f"{results.sensitivity:.0%} of the configurations reached at least 95 % of the best configuration's gain; "
            "a smaller share means that the result depends more on the search."
        )


def _rank(trial: Any) -> tuple[bool, float]:
    """Sort key: complete trials first, then by decreasing reward."""
    return (trial.state != "complete", -(trial.value if trial.value is not None else 0.0))


def _style(trial: Any, best: int) -> str:
    if trial.number == best:
        return "bold"
    return "" if trial.state == "complete" else "dim"
