"""`rlalign feedback overoptimization`: proxy and gold reward of runs against their KL, and where gold falls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.escaping.terminal import print_text


@dataclass(frozen=True)
class Overoptimization:
    """Fit proxy and gold reward of runs against the square root of their KL: one HTML page, its numbers as JSON."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders with some; runs that differ in the seed alone are one group. `rlalign evaluate RUN
    --best-of 16` adds best-of-n of the initial policy."""
    proxy: str = "reward"
    """Metric that was optimized: `reward`, the weighted sum, or a component."""
    gold: str = "gold"
    """Metric that measures the true objective: a component of weight 0, as of --reward NAME=0."""
    output: Path = Path("overoptimization.html")
    """Path of the page. The JSON file has the same name."""
    seed: int = 0
    """Seed of the bootstrap."""


def run_overoptimization(arguments: Overoptimization) -> int:
    """Write the report and print its sentences; return 0."""
    from rlalign.feedback.overoptimization import write_overoptimization
    from rlalign.typecheck import check_range

    check_range("--seed", arguments.seed, least=0)
    report = write_overoptimization(
        arguments.runs, arguments.output, proxy=arguments.proxy, gold=arguments.gold, seed=arguments.seed
    )
    for sentence in report.verdict:
        print_text(sentence)
    for text in report.notes:
        print_text(f"note: {text}")
    print_text(f"report: {report.page} and {report.data}")
    return 0
