"""`rlalign oracle`: an algorithm's expected gradient against the exact gradient of the expected reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from rlalign.algorithms import Algorithm
from rlalign.cli.arguments import flags_of, parse_arguments, split_settings
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError
from rlalign.escaping.console import line


@dataclass(frozen=True)
class Args:
    """Compare an algorithm's expected first update with the exact gradient on an enumerable MDP.

    Each setting of the objective is accepted and changes one axis of the preset: --objective.scale none.
    """

    preset: str = "all"
    """Name of `rlalign list algorithms`, or all."""
    objective: str | None = None
    """Objective, baseline, trust region, loss or advantage of your own, as file.py:name, instead of a preset; None: the
    preset."""
    group_size: int = 2
    """Completions per group."""
    horizon: int = 4
    """Largest number of tokens per completion."""


def run(args: Sequence[str]) -> int:
    """Print one row per algorithm; return 0."""
    own, settings = split_settings(args, flags_of(Args))
    arguments = parse_arguments(Args, own, prog="rlalign oracle")
    from rlalign.oracle import Comparison, report

    which = changed(arguments, settings) if settings else arguments.objective or arguments.preset
    rows = report(which, group_size=arguments.group_size, horizon=arguments.horizon)
    table = Table(title="expected first update against the exact gradient", title_justify="left")
    table.add_column("algorithm", style="bold", no_wrap=True)
    for rewards in ("rewards in [0, 1]", "rewards 0 or 1"):
        table.add_column(rewards, no_wrap=True)
        table.add_column("cosine", justify="right")

    def cells(comparison: Comparison) -> tuple[Text, str]:
        color = "green" if comparison.verdict.startswith("exact") else "yellow"
        return line((comparison.verdict, color)), f"{comparison.cosine:.4f}"

    for row in rows:
        table.add_row(row.algorithm.name, *cells(row.graded), *cells(row.binary))
    console = make_console()
    console.print(table)
    if len(rows) == 1 and rows[0].algorithm.bias:
        console.print(rows[0].algorithm.bias, soft_wrap=True)
    return 0


def changed(arguments: Args, settings: Mapping[str, str]) -> Algorithm:
    """Return the algorithm of the arguments with axes of its objective changed, named after the changes.

    Raises:
        UserError: no single algorithm is named, or a setting is not one of the objective.
    """
    from rlalign.config.overrides import apply, full_key
    from rlalign.config.schema import TrainConfig
    from rlalign.oracle.resolve import resolve

    if not arguments.objective and arguments.preset == "all":
        raise UserError(f"--{next(iter(settings))}: expected one algorithm to change, got all; use --preset grpo")
    names = {full_key(name): value for name, value in settings.items()}
    for name in names:
        if not name.startswith("objective."):
            raise UserError(f"--{name}: expected a setting of the objective, got another one; use --objective.*")
    item = resolve(arguments.objective or arguments.preset)
    objective = apply(TrainConfig(objective=item.objective), names).objective
    changes = ", ".join(f"{name.removeprefix('objective.')} {value}" for name, value in names.items())
    return replace(item, name=f"{item.name}, {changes}", objective=objective, bias="")
