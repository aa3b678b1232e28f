"""`rlalign train`: a training run configured from the command line, and its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.table import Table

from rlalign.cli.arguments import REPEATED, flag_value, parse_arguments, settings_flags
from rlalign.cli.console import console as make_console
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import update
from rlalign.errors import OutputError, UserError
from rlalign.escaping.console import PlainConsole, line
from rlalign.evaluation.signed_bounds import decimals_of, signed_bounds
from rlalign.evaluation.transcripts import prompt_text, sample_texts
from rlalign.storage.folder_kind import check_run
from rlalign.storage.run_folder import read_config

if TYPE_CHECKING:  # torch takes longer to import than --help and a mistake take to answer
    from rlalign.evaluation.before_after import Comparison, Difference
    from rlalign.run import Run

_SAMPLES = 3  # completions printed at the end
_LONGEST = 400  # characters of each


def run(args: Sequence[str]) -> int:
    """Train and print the results; return 0, or 128 + n if signal n stopped the run."""
    config = parse(args)
    if config.resume:
        from rlalign.storage.trust import check_trust

        check_trust(Path(str(config.output)), config, trust=config.trust_run)
    from rlalign.api import train_config

    trained = train_config(config)
    comparison = trained.comparison
    if comparison is None:
        return trained.exit_status
    try:
        _print_results(trained, comparison)
    except OutputError as error:
        error.args = (f"{error}; the run is finished, and its results are in {trained.folder}",)
        raise
    return 0


def _print_results(run: Run, comparison: Comparison) -> None:
    from rlalign.training.distillation import verdict

    folder = run.folder
    console = make_console()
    print_comparison(console, comparison)
    print_samples(console, comparison)
    if (folder / "report" / "reward.png").is_file():  # best_of_n has no curve
        console.print(f"reward curve  {folder / 'report' / 'reward.png'}", soft_wrap=True)
    console.print(f"run folder    {folder}", soft_wrap=True)
    verdicts = [run.held_out.get("verdict"), verdict(comparison)]
    if comparison.after.scored or not any(verdicts):
        verdicts.append(comparison.verdict)
    for sentence in filter(None, verdicts):
        console.print(line(("\n" + sentence, "bold")), soft_wrap=True)


def parse(args: Sequence[str]) -> TrainConfig:
    """Return the configuration of command-line arguments.

    The defaults depend on the environment, the policy and the algorithm among the arguments: the preset sets the axes,
    the policy its learning rate and batch. With --resume all defaults come from the run folder.
    """
    args, file_settings = _split_config_file(_expand_resume(settings_flags(args)))
    default = _default(args, file_settings)
    parsed: TrainConfig = parse_arguments(
        TrainConfig,
        args,
        default=default,
        prog="rlalign train",
        description="Train a policy by reinforcement learning from a reward. "
        "--config FILE reads settings from a TOML file, such as best.toml of rlalign tune. "
        "The defaults depend on the environment, policy and algorithm: add --policy gru to see those of gru.",
        config=(tyro.conf.UseAppendAction, tyro.conf.AvoidSubcommands),
    )
    return parsed


def _split_config_file(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments without `--config FILE`, and the settings in that file by dotted name."""
    path = flag_value(args, "--config")
    if path is None:
        return args, {}
    from rlalign.config.overrides import read_toml

    settings = read_toml(Path(path))
    i = next(i for i, word in enumerate(args) if word.partition("=")[0] == "--config")
    words = 1 if "=" in args[i] else 2  # --config=FILE or --config FILE
    return args[:i] + args[i + words :], settings


def _default(args: list[str], file_settings: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that the arguments override."""
    from rlalign.config.defaults import default_config
    from rlalign.config.overrides import apply

    if "--resume" in args:
        return _stored_config(args)
    names: dict[str, str] = {}
    for name in ("env", "policy", "algorithm", "data"):
        value = flag_value(args, f"--{name}") or file_settings.get(name)
        if value is not None:
            names[name] = str(value)
    config = default_config(**names)
    return apply(config, {key: value for key, value in file_settings.items() if key not in names})


def _stored_config(args: list[str]) -> TrainConfig:
    """Return the configuration of the run to resume."""
    output = flag_value(args, "--output")
    if output is None:
        raise UserError("--resume: expected a run folder, got none; use rlalign train --resume runs/NAME")
    folder = Path(output)
    check_run(folder)
    config = read_config(folder)
    # tyro appends each --rewards to the default, so the stored values make room for new ones
    return update(config, {name: () for name in REPEATED if flag_value(args, f"--{name}") is not None})


def _expand_resume(args: list[str]) -> list[str]:
    """Replace `--resume FOLDER` by `--output FOLDER --resume`."""
    for i, word in enumerate(args):
        if word.startswith("--resume="):
            return [*args[:i], "--output", word.partition("=")[2], "--resume", *args[i + 1 :]]
        if word == "--resume" and i + 1 < len(args) and not args[i + 1].startswith("-"):
            return [*args[:i], "--output", args[i + 1], "--resume", *args[i + 2 :]]
    return args


def print_comparison(console: PlainConsole, comparison: Comparison) -> None:
    """Print the means over held-out prompts before and after, and the paired differences with their 95 % CI."""
    table = Table(title=f"before / after on {comparison.before.size}", title_justify="left")
    for column in ("", "before", "after", "difference", "95 % CI"):
        table.add_column(column, justify="left" if not column else "right")
    for name, difference in comparison.differences.items():
        if name == "reward" and not comparison.after.scored:
            continue
        decimals = decimals_of(difference.low, difference.high)
        before, after = comparison.means(name)
        table.add_row(
            name,
            _number(before, decimals),
            _number(after, decimals),
            _number(difference.mean, decimals, "+"),
            _interval(difference),
            style="bold" if name == "reward" else "",
        )
    console.print(table)
    print_environments(console, comparison)
    if comparison.cut:
        console.print(comparison.cut, soft_wrap=True)


def print_environments(console: PlainConsole, comparison: Comparison) -> None:
    """Print the reward on each environment of a mixture before and after; nothing for one environment."""
    parts = comparison.by_environment
    if not parts or not comparison.after.scored:
        return
    table = Table(title="reward by environment", title_justify="left")
    for column in ("", "prompts", "before", "after", "difference", "95 % CI"):
        table.add_column(column, justify="left" if not column else "right")
    for name, part in parts.items():
        difference = part.differences["reward"]
        decimals = decimals_of(difference.low, difference.high)
        numbers = [_number(value, decimals) for value in part.means("reward")]
        change = _number(difference.mean, decimals, "+")
        table.add_row(name, str(difference.n), *numbers, change, _interval(difference))
    console.print(table)


def _interval(difference: Difference) -> str:
    if difference.same:
        return "same on each"
    if not math.isfinite(difference.low):
        return "-"
    return signed_bounds(difference.low, difference.high)


def _number(x: float, decimals: int, sign: str = "") -> str:
    return f"{round(x, decimals) + 0.0:{sign}.{decimals}f}" if math.isfinite(x) else "-"  # + 0.0 turns -0.0 into 0.0


def print_samples(console: PlainConsole, comparison: Comparison, count: int = _SAMPLES) -> None:
    """Print some completions before and after, side by side; of several turns the whole trajectories."""
    table = Table(title="samples", title_justify="left", show_lines=True)
    for column in ("prompt", "before", "after"):
        table.add_column(column, ratio=1, overflow="fold")
    for sample in comparison.samples(count):
        before, after = (sample_texts(sample, side)[0] for side in ("before", "after"))
        table.add_row(*(text[:_LONGEST] for text in (prompt_text(sample), before, after)))
    console.print(table)
