"""`rlalign compare`: a study of algorithms × environments × seeds, or of runs that exist, and its report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from rlalign.cli.arguments import flags_of, optional_value, parse_arguments, split_settings
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError

_STUDY_FLAGS = (
    "algorithms",
    "envs",
    "policy",
    "warm_start",
    "seeds",
    "steps",
    "jobs",
    "ray",
    "tune",
    "search",
    "allow_unequal",
)
_RUNS_FLAGS = ("exclude_unfinished", "exclude_mixed", "exclude_incomplete")


@dataclass(frozen=True)
class Args:
    """Compare algorithms: run algorithms × environments × seeds and test the differences statistically.

    Each setting of `rlalign train` is accepted and applies to all runs: --learner.lr 1e-3. The same command resumes an
    interrupted study. A study.toml holds the same settings in a file; flags override it.
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """study.toml, or folders of existing runs or studies; without: run --algorithms on --envs."""
    algorithms: str | None = None
    """Comma-separated names of `rlalign list algorithms`; those that begin with trl: are TRL's trainers.
    None: those of the study.toml."""
    envs: str | None = None
    """Comma-separated environments; None: those of the study.toml."""
    policy: str | None = None
    """Initial policy of all runs, also a model folder or a run folder (its policy); None: gru."""
    warm_start: str | None = None
    """Algorithm whose runs, one per environment and seed, train the initial policies of all other runs, such as sft;
    None: none."""
    seeds: str | None = None
    """Number of seeds (5: 0 to 4), or a comma-separated list; None: 5."""
    steps: int | None = None
    """Training steps per run; None: the policy's default."""
    output: Path | None = None
    """Output folder; None: runs/compare, or runs/comparison for existing runs."""
    jobs: int = 0
    """Number of parallel runs; 0: as many as cores and memory allow."""
    ray: str | None = None
    """Send the runs to the Ray cluster at this address; without an address, start a cluster on this machine. None: run
    processes on this machine."""
    tune: int | None = None
    """Number of trials of a settings search that precedes the runs of each algorithm, at a separate seed; None: no
    search, or that of the study.toml."""
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SETTING=SPACE of the search, repeatable: learner.lr=log:1e-4:1e-2, rollout.group_size=choice:4,8."""
    threshold: float | None = None
    """Reward that counts as reached; None: halfway from the initial policy's mean to the best algorithm's."""
    allow_unequal: bool = False
    """Accept algorithms with different budgets."""
    exclude_unfinished: bool = False
    """Leave out unfinished runs."""
    exclude_mixed: bool = False
    """Leave out runs whose environment, budget, policy or prompts differ from those of the other runs."""
    exclude_incomplete: bool = False
    """Leave out seeds that some algorithm lacks."""


def run(args: Sequence[str]) -> int:
    """Compare; return 1 if a run failed, otherwise 0."""
    own, settings = split_settings(optional_value(args, "--ray", "local"), flags_of(Args))
    arguments = parse_arguments(Args, own, prog="rlalign compare")
    from rlalign.compare.output.tables import print_results
    from rlalign.compare.records.collect_runs import Exclusions
    from rlalign.compare.run_study import Placement, StoppedError, compare_runs, compare_study

    command = shlex.join(["rlalign", "compare", *args])
    console = make_console()
    if arguments.inputs and not _is_study(arguments.inputs):
        _refuse_flags(arguments, _STUDY_FLAGS, settings, "runs that exist are taken as they are")
        output = arguments.output or Path("runs/comparison")
        leave_out = Exclusions(arguments.exclude_unfinished, arguments.exclude_mixed, arguments.exclude_incomplete)
        results = compare_runs(
            arguments.inputs, output, command=command, leave_out=leave_out, threshold=arguments.threshold
        )
    else:
        _refuse_flags(arguments, _RUNS_FLAGS, {}, "a study makes its own runs")
        study = study_of(arguments, settings)
        output = Path(study.output)
        try:
            results = compare_study(
                study,
                command=command,
                placement=Placement(arguments.jobs, arguments.ray),
                console=console,
                allow_unequal=arguments.allow_unequal,
            )
        except StoppedError as stopped:
            console.print(f"stopped; resume with: {command}", soft_wrap=True)
            return stopped.status
    print_results(console, results)
    console.print(f"\nreport   {output / 'report.html'}\nresults  {output / 'results.json'}", soft_wrap=True)
    return 1 if results.failures else 0


def _is_study(inputs: Sequence[Path]) -> bool:
    """Return True for a study file, False for folders. Raises UserError for a study file with other inputs."""
    files = [path for path in inputs if path.suffix == ".toml"]
    if files and len(inputs) > 1:
        raise UserError(f"'{files[0]}' is a study file: expected no other inputs; use one file, or folders of runs")
    return bool(files)


def _refuse_flags(arguments: Args, names: Sequence[str], settings: Collection[str], reason: str) -> None:
    """Raise UserError if one of the named flags, or a setting, is set; the command would ignore it."""
    ignored = [name for name in names if getattr(arguments, name) != getattr(Args, name)]
    if ignored or settings:
        flags = ", ".join("--" + name.replace("_", "-") for name in [*ignored, *settings])
        raise UserError(f"{reason}: leave out {flags}")


def study_of(arguments: Args, settings: dict[str, Any]) -> Any:
    """Return the study of the arguments, or of the study file with the arguments and settings on top."""
    from rlalign.compare.study import Study, TuneSettings, check_study
    from rlalign.compare.study_file import parse_seeds, read_study
    from rlalign.compare.tuning.spaces import parse_search
    from rlalign.config.overrides import full_key

    if arguments.inputs:
        study = read_study(arguments.inputs[0])
    elif not arguments.algorithms or not arguments.envs:
        raise UserError(
            "expected algorithms and environments, a study file, or run folders; use rlalign compare --algorithms "
            "rloo,grpo --envs reverse, rlalign compare study.toml, or rlalign compare runs/a runs/b"
        )
    else:
        study = Study((), ())
    changes: dict[str, Any] = {
        "algorithms": arguments.algorithms and _names(arguments.algorithms),
        "envs": arguments.envs and _envs(arguments.envs),
        "policy": arguments.policy,
        "warm_start": arguments.warm_start,
        "seeds": None if arguments.seeds is None else parse_seeds(_seeds(arguments.seeds)),
        "steps": arguments.steps,
        "output": arguments.output and str(arguments.output),
        "threshold": arguments.threshold,
    }
    study = replace(study, **{name: value for name, value in changes.items() if value is not None})
    study = replace(study, settings={**study.settings, **{full_key(k): v for k, v in settings.items()}})
    tune = study.tune
    if arguments.tune is not None:
        tune = replace(tune, trials=arguments.tune)
    if arguments.search:
        tune = TuneSettings(tune.trials, parse_search(arguments.search))
    return check_study(replace(study, tune=tune))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _envs(text: str) -> tuple[str, ...]:
    """Return the names of environments. Raises UserError for a mixture, whose commas are those of this list."""
    from rlalign.envs.mixture.spec import MixtureSpec

    names = _names(text)
    mixture = any(re.search(r"(=[\d.e+-]+|@\d+)$", name) for name in names) and MixtureSpec.parse(text) is not None
    if mixture:
        raise UserError(
            f"--envs {text}: expected environments, got a mixture, whose commas separate environments here; name it in "
            f'a study file: envs = ["{text}"]'
        )
    return names


def _seeds(text: str) -> int | list[int]:
    """Return a number of seeds, or the list of seeds if the text has a comma."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds: expected a number of seeds or a list, such as 10 or 0,1,2, got '{text}'") from None
    return numbers if "," in text else numbers[0]
