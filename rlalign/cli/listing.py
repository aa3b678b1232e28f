"""`rlalign list envs|rewards|algorithms|policies|metrics`: the registered names and the metric keys, one per line."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro
from rich.table import Table

from rlalign.cli.arguments import parse_arguments
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError
from rlalign.log.metric_keys import EVALUATION, METRICS
from rlalign.registry import ENVS, POLICIES, REWARDS, Registry


@dataclass(frozen=True)
class Args:
    """List environments, rewards, algorithms, policies or metrics."""

    kind: tyro.conf.Positional[Literal["envs", "rewards", "algorithms", "policies", "metrics"]]
    """Names to list. envs: environments; rewards: reward functions; algorithms: presets; policies: kinds of policies;
    metrics: keys of metrics.jsonl and report/evaluation.json."""
    diff: tuple[str, ...] = ()
    """Two algorithms: print only the axes on which they differ."""


def run(args: Sequence[str]) -> int:
    """Print the table; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign list")
    kind = arguments.kind
    if arguments.diff and kind != "algorithms":
        raise UserError(f"--diff compares two algorithms, not {kind}; use rlalign list algorithms --diff grpo dapo")
    if kind == "algorithms":
        from rlalign.cli.algorithms import show

        return show(arguments.diff)
    if kind == "metrics":
        return _show_metrics()
    registry: Registry[Any] = {"envs": ENVS, "rewards": REWARDS, "policies": POLICIES}[kind]
    table = Table(box=None, padding=(0, 2))
    table.add_column("policy" if kind == "policies" else kind[:-1], style="bold", no_wrap=True)
    table.add_column("description")
    for name in registry:
        # a policy imports torch and transformers, which takes seconds
        text = first_paragraph(registry.docstring(name)) if kind == "policies" else ""
        table.add_row(name, text or summary(registry.get(name)))
    make_console().print(table)
    return 0


def _show_metrics() -> int:
    """Print the metric keys with their meanings; return 0."""
    titles = {
        "metrics.jsonl": METRICS,
        "report/evaluation.json, mean over held-out prompts": {"metrics": EVALUATION["metrics"]},
        "report/evaluation.json, all completions together": {"corpus": EVALUATION["corpus"]},
    }
    console = make_console()
    for title, part in titles.items():
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
        table.add_column("metric", style="bold", no_wrap=True)
        table.add_column("description")
        for rows in part.values():
            for row in rows:
                table.add_row(row.key, row.text)
        console.print(table)
    return 0


def summary(item: Any) -> str:
    """Return the description of a registered object: its `description`, or the first paragraph of its docstring."""
    # a reward is an object that wraps the documented function
    text = getattr(item, "description", None) or inspect.getdoc(getattr(item, "function", item)) or ""
    return first_paragraph(str(text))


def first_paragraph(text: str) -> str:
    """Return the first paragraph of a text as one line."""
    return " ".join(text.split("\n\n")[0].split())
