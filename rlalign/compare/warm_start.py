"""Warm start: runs of one algorithm whose policies the cells of a study begin with, one per environment and seed.

They are ordinary runs in OUTPUT/warm_start/ENV/ALGORITHM/seed-N, which the study executes first. They are no
competitors. A study that is repeated keeps the finished ones, and refuses cells that began with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlalign.compare.study import Cell, Study, cell_config, initial_policy, label
from rlalign.errors import UserError


def warm_start_cells(study: Study) -> list[Cell]:
    """Return the runs that train the initial policies; empty without a warm start."""
    if not study.warm_start:
        return []
    cold = replace(study, warm_start="")
    cells = []
    for seed in study.seeds:
        for env in study.envs:
            config = cell_config(cold, env, study.warm_start, seed)
            folder = initial_policy(study, env, seed).removesuffix("/policy")
            cells.append(Cell(label(env), study.warm_start, seed, replace(config, output=folder)))
    return cells


def startable(cells: Sequence[Cell], failed: Mapping[str, str]) -> tuple[list[Cell], dict[str, str]]:
    """Return the cells whose initial policy was trained, and name -> reason of the others.

    Args:
        cells: of the study.
        failed: name -> reason of the warm starts that failed.
    """
    reasons = {name.partition("/")[0] + "/" + name.rpartition("/")[2]: reason for name, reason in failed.items()}
    ready, failures = [], {}
    for cell in cells:
        reason = reasons.get(f"{cell.env}/seed-{cell.seed}")
        if reason is None:
            ready.append(cell)
        else:
            failures[cell.name] = f"no initial policy, its warm start failed: {reason}"
    return ready, failures


def check_warm_start(study: Study) -> None:
    """Raise UserError if a warm start cannot be combined with the rest of the study."""
    if study.warm_start and study.tune.trials:
        raise UserError(
            f"warm_start {study.warm_start}: expected no search, got {study.tune.trials} trials, which have a seed of "
            "their own without an initial policy; search with rlalign tune, and name the settings found"
        )


def note(study: Study) -> list[str]:
    """Return a sentence about the initial policies for the report; [] without a warm start."""
    if not study.warm_start:
        return []
    return [
        f"Each run began with the policy of a run of {study.warm_start} at its seed, in warm_start/. The samples of "
        "these runs are not counted."
    ]
