"""`rlalign compare`: algorithms × environments × seeds, or runs that exist, from the question to the report."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from rlalign.cli.console import console as make_console
from rlalign.cli.study_args import flags_of, optional_value, split_settings
from rlalign.errors import UserError

_OF_STUDIES = ("algorithms", "envs", "policy", "seeds", "steps", "jobs", "ray", "tune", "search", "allow_unequal")
_OF_RUNS = ("exclude_unfinished", "exclude_mixed", "exclude_incomplete")


@dataclass(frozen=True)
class Args:
    """Compare algorithms: run algorithms × environments × seeds and say what may be claimed.

    Any setting of `rlalign train` may be given for all runs: --learner.lr 1e-3. The same command again goes on where it
    stopped. A study.toml says the same in a file; flags beside it win.
    """

    what: tyro.conf.Positional[tuple[Path, ...]] = ()
    """study.toml, or folders of runs or studies that exist already; nothing: run --algorithms on --envs."""
    algorithms: str | None = None
    """Names of `rlalign list algorithms`, with commas between; trl:grpo and trl:rloo are TRL's trainers."""
    envs: str | None = None
    """Environments, with commas between."""
    policy: str | None = None
    """Policy of all runs; None: gru."""
    seeds: str | None = None
    """How many (5: 0 to 4), or which, with commas between; None: 5."""
    steps: int | None = None
    """Steps of every run; None: what suits the policy."""
    output: Path | None = None
    """Folder of the study; None: runs/compare, or runs/comparison for runs that exist."""
    jobs: int = 0
    """Runs at once; 0: what cores and memory hold."""
    ray: str | None = None
    """Send the runs to the Ray cluster at this address; without one, start a cluster on this machine."""
    tune: int | None = None
    """Trials of a search that each algorithm gets first, at a seed of its own."""
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=SPACE of the search, repeatable: learner.lr=log:1e-4:1e-2, rollout.group_size=choice:4,8."""
    threshold: float | None = None
    """Reward that counts as reached; None: half the way from the start to the best algorithm's mean."""
    allow_unequal: bool = False
    """Compare although budgets differ."""
    exclude_unfinished: bool = False
    """Leave unfinished runs out."""
    exclude_mixed: bool = False
    """Leave runs out whose environment, budget, policy or prompts are not those of the others."""
    exclude_incomplete: bool = False
    """Leave seeds out that not every algorithm has."""


def run(args: Sequence[str]) -> int:
    """Compare."""
    words, settings = split_settings(optional_value(args, "--ray", "local"), flags_of(Args))
    given = tyro.cli(Args, args=words, prog="rlalign compare")
    from rlalign.compare.output.tables import print_results
    from rlalign.compare.records.collect_runs import Exclusions
    from rlalign.compare.run_study import Placement, StoppedError, compare_runs, compare_study

    command = shlex.join(["rlalign", "compare", *args])
    console = make_console()
    if given.what and not _is_study(given.what):
        _refuse(given, _OF_STUDIES, settings, "runs that exist are taken as they are")
        output = given.output or Path("runs/comparison")
        leave_out = Exclusions(given.exclude_unfinished, given.exclude_mixed, given.exclude_incomplete)
        results = compare_runs(given.what, output, command=command, leave_out=leave_out, threshold=given.threshold)
    else:
        _refuse(given, _OF_RUNS, {}, "a study makes its own runs")
        study = study_of(given, settings)
        output = Path(study.output)
        try:
            results = compare_study(
                study,
                command=command,
                placement=Placement(given.jobs, given.ray),
                console=console,
                allow_unequal=given.allow_unequal,
            )
        except StoppedError as stopped:
            console.print(f"stopped; go on with: {command}", soft_wrap=True)
            return stopped.status
    print_results(console, results)
    console.print(f"\nreport   {output / 'report.html'}\nresults  {output / 'results.json'}", soft_wrap=True)
    return 1 if results.failures else 0


def _is_study(what: Sequence[Path]) -> bool:
    files = [path for path in what if path.suffix == ".toml"]
    if files and len(what) > 1:
        raise UserError(f"'{files[0]}' is a study by itself: give one file, or folders of runs")
    return bool(files)


def _refuse(given: Args, names: Sequence[str], settings: Collection[str], why: str) -> None:
    """Refuse flags that would be ignored."""
    idle = [name for name in names if getattr(given, name) != getattr(Args, name)]
    if idle or settings:
        raise UserError(f"{why}: leave out {', '.join('--' + n.replace('_', '-') for n in [*idle, *settings])}")


def study_of(given: Args, settings: dict[str, str]) -> Any:
    """The study of the arguments: of the file, if there is one, with flags winning."""
    from rlalign.compare.study import Study, TuneSettings, check_study
    from rlalign.compare.study_file import parse_seeds, read_study
    from rlalign.compare.tuning.spaces import parse_search
    from rlalign.config.overrides import full_key

    if given.what:
        study = read_study(given.what[0])
    elif not given.algorithms or not given.envs:
        raise UserError(
            "say what to compare: rlalign compare --algorithms rloo,grpo --envs reverse, or study.toml, or run folders"
        )
    else:
        study = Study((), ())
    changes: dict[str, Any] = {
        "algorithms": given.algorithms and _names(given.algorithms),
        "envs": given.envs and _names(given.envs),
        "policy": given.policy,
        "seeds": None if given.seeds is None else parse_seeds(_seeds(given.seeds)),
        "steps": given.steps,
        "output": given.output and str(given.output),
        "threshold": given.threshold,
    }
    study = replace(study, **{k: v for k, v in changes.items() if v is not None})
    study = replace(study, settings={**study.settings, **{full_key(k): v for k, v in settings.items()}})
    tune = study.tune
    if given.tune is not None:
        tune = replace(tune, trials=given.tune)
    if given.search:
        tune = TuneSettings(tune.trials, parse_search(given.search))
    return check_study(replace(study, tune=tune))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds '{text}' is neither how many nor which: 10, or 0,1,2") from None
    return numbers if "," in text else numbers[0]
