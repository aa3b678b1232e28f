"""The oracle's check of a custom advantage at the start of a run: printed, and stored for the run's card."""

from __future__ import annotations

import json
from pathlib import Path

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.escaping.console import PlainConsole
from rlalign.objective.registries import UNCHANGED
from rlalign.oracle.advantage_check import AdvantageCheck, check_advantage
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable

ADVANTAGE_FILE = Path("report", "advantage.json")


def report_advantage(config: TrainConfig, folder: Path, console: PlainConsole) -> None:
    """Check the advantage of a run, print the result in one line, and write report/advantage.json.

    A run without a custom advantage, or one that resumes, prints nothing.

    Args:
        config: of the run.
        folder: the run folder.
        console: of the run.
    """
    name = config.objective.advantage
    if name == UNCHANGED or config.resume:
        return
    if config.data or find_algorithm(config.algorithm).teacher == "samples":
        reason = "the run learns from completions that its policy did not sample, and the oracle enumerates its samples"
        check = AdvantageCheck(name, None, None, reason, config.rollout.group_size)
    else:
        check = check_advantage(config.objective, config.rollout.group_size)
    console.print(check.sentence, soft_wrap=True)
    write_atomic(folder / ADVANTAGE_FILE, json.dumps(nullable(check.to_dict()), indent=1) + "\n")
