"""`rlalign train`: configuration from the command line, then the experiment, then what a person wants to know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from rlalign.cli.console import console as make_console
from rlalign.cli.study_args import settings_flags
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, Difference
from rlalign.run import Run
from rlalign.storage.run_folder import read_config

_SHOWN = 3  # samples shown at the end


def run(args: Sequence[str]) -> int:
    """Train."""
    config = parse(args)
    from rlalign.api import train_config

    run_ = train_config(config)
    comparison = run_.comparison
    if comparison is None:
        return run_.exit_status
    console = make_console()
    print_comparison(console, comparison)
    print_samples(console, comparison)
    console.print(f"reward curve  {run_.folder / 'report' / 'reward.png'}", soft_wrap=True)
    console.print(f"run folder    {run_.folder}", soft_wrap=True)
    console.print(f"\n[bold]{comparison.verdict}[/]", soft_wrap=True)
    return 0


def parse(args: Sequence[str]) -> TrainConfig:
    """A TrainConfig of command-line arguments.

    Defaults depend on three of them: the preset gives the axes, the policy its learning rate and batch; a run folder to
    resume gives everything.
    """
    args, file = _config_file(_resume_path(settings_flags(args)))
    default = _default(args, file)
    parsed: TrainConfig = tyro.cli(
        TrainConfig,
        args=args,
        default=default,
        prog="rlalign train",
        description="Train a policy by reinforcement learning from a reward. "
        "--config FILE takes settings from a TOML file, such as best.toml of rlalign tune. "
        "The defaults shown are those of the env, policy and algorithm on the line: add --policy gru to see its.",
        config=(tyro.conf.UseAppendAction, tyro.conf.AvoidSubcommands),
    )
    return parsed


def _config_file(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--config FILE` out: a TOML file of settings by their dotted names, which flags win over."""
    path = _value(args, "--config")
    if path is None:
        return args, {}
    from rlalign.config.overrides import read_toml

    found = read_toml(Path(path))
    at = next(i for i, word in enumerate(args) if word.partition("=")[0] == "--config")
    return args[:at] + args[at + (1 if "=" in args[at] else 2) :], found


def _default(args: list[str], file: Mapping[str, Any]) -> TrainConfig:
    from rlalign.config.defaults import default_config

    output = _value(args, "--output")
    if "--resume" in args:
        if output is None:
            raise UserError("--resume needs the run folder: rlalign train --resume runs/NAME")
        folder = Path(output)
        if not (folder / "config.json").is_file():
            raise UserError(f"'{folder}' holds no run to resume: check the path")
        return replace(read_config(folder), rewards=() if "--rewards" in args else read_config(folder).rewards)
    from rlalign.config.overrides import apply

    base = TrainConfig()
    env, policy, algorithm = (
        _value(args, f"--{name}") or str(file.get(name, getattr(base, name))) for name in ("env", "policy", "algorithm")
    )
    config = default_config(env=env, policy=policy, algorithm=algorithm)
    return apply(config, {k: v for k, v in file.items() if k not in ("env", "policy", "algorithm")})


def _resume_path(args: list[str]) -> list[str]:
    """Let `--resume runs/a` stand for `--output runs/a --resume`."""
    for i, word in enumerate(args):
        if word.startswith("--resume="):
            return [*args[:i], "--output", word.partition("=")[2], "--resume", *args[i + 1 :]]
        if word == "--resume" and i + 1 < len(args) and not args[i + 1].startswith("-"):
            return [*args[:i], "--output", args[i + 1], "--resume", *args[i + 2 :]]
    return args


def _value(args: Sequence[str], flag: str) -> str | None:
    for i, word in enumerate(args):
        if word == flag and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The before / after table: means over held-out prompts, paired difference with its 95 % CI."""
    n = len(comparison.before.prompts)
    table = Table(title=f"before / after on {n} held-out prompts", title_justify="left")
    for name in ("", "before", "after", "difference", "95 % CI"):
        table.add_column(name, justify="left" if not name else "right")
    for name, d in comparison.differences.items():
        means = _number(comparison.before.mean(name)), _number(comparison.after.mean(name)), _number(d.mean, "+")
        table.add_row(name, *means, _interval(d), style="bold" if name == "reward" else "")
    console.print(table)


def _interval(d: Difference) -> str:
    if d.same:
        return "same on each"
    return rf"\[{_number(d.low, '+')}, {_number(d.high, '+')}]" if math.isfinite(d.low) else "-"


def _number(x: float, sign: str = "") -> str:
    return f"{round(x, 3) + 0.0:{sign}.3f}" if math.isfinite(x) else "-"  # + 0.0: no -0.000


def print_samples(console: Console, comparison: Comparison, count: int = _SHOWN) -> None:
    """Some completions before and after, side by side."""
    table = Table(title="samples", title_justify="left", show_lines=True)
    for name in ("prompt", "before", "after"):
        table.add_column(name, ratio=1, overflow="fold")
    rows = zip(comparison.before.prompts, comparison.before.completions, comparison.after.completions, strict=True)
    for prompt, before, after in list(rows)[:count]:
        table.add_row(plain(prompt), plain(before[0]), plain(after[0]))
    console.print(table)


def plain(text: str) -> str:
    """Text that rich shows as it is: no markup, no control characters, not endless."""
    shown = "".join(c if c.isprintable() or c == "\n" else "�" for c in text[:400])
    return shown.replace("[", r"\[")


__all__ = ["Run", "parse", "print_comparison", "print_samples", "run"]
