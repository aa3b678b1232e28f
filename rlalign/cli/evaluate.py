"""`rlalign evaluate RUN`: before and after on the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlalign.cli.console import console as make_console


@dataclass(frozen=True)
class Args:
    """Compare a run's policy with its start on held-out prompts."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    split: Literal["train", "validation", "test"] = "test"
    prompts: int | None = None
    """Held-out prompts; None: as many as the run's own evaluation."""
    samples: int | None = None
    """Completions of each."""
    env: str | None = None
    """Another environment than the run's."""
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""


def run(args: Sequence[str]) -> int:
    """Evaluate."""
    given = tyro.cli(Args, args=list(args), prog="rlalign evaluate")
    from rlalign.cli.train import print_comparison, print_samples
    from rlalign.evaluation import evaluate_run, nullable
    from rlalign.run import Run

    comparison = evaluate_run(
        Run(given.run), split=given.split, prompts=given.prompts, samples=given.samples, env=given.env
    )
    if given.json_:
        print(json.dumps(nullable(comparison.to_dict()), ensure_ascii=False, indent=1))
        return 0
    console = make_console()
    print_comparison(console, comparison)
    print_samples(console, comparison)
    console.print(f"[bold]{comparison.verdict}[/]", soft_wrap=True)
    return 0
