"""Runs that exist, collected as the cells of a study; runs that do not fit are refused or left out on request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlalign.compare.cell_settings import equal_settings, first_difference, settings_of
from rlalign.compare.records.run_records import evaluation_of, finished
from rlalign.compare.results.schema import Failure
from rlalign.compare.study import Cell, label
from rlalign.config.overrides import shown
from rlalign.config.schema import TrainConfig
from rlalign.envs.registration import env_id
from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage.folder_kind import is_model


@dataclass(frozen=True)
class Exclusions:
    """Runs to leave out instead of refusing them.

    Attributes:
        unfinished: runs that are not finished.
        mixed: runs with another environment, budget, policy or other prompts than most.
        incomplete: seeds that some algorithm lacks.
    """

    unfinished: bool = False
    mixed: bool = False
    incomplete: bool = False


def collect_runs(folders: Sequence[Path], leave_out: Exclusions) -> tuple[list[Cell], list[Failure]]:
    """Return (cells of a complete grid, runs that were left out).

    Args:
        folders: run folders, folders of studies, or folders that contain these.
        leave_out: runs to leave out instead of refusing them.

    Raises:
        UserError: names a run that is not finished, differs from most in budget or policy, or has no counterpart.
    """
    cells = []
    for folder in _run_folders(folders):
        run = Run(folder)
        cells.append(Cell(label(env_id(run.config.env)), run.config.algorithm, run.config.seed, _config_of(run)))
    excluded: list[Failure] = []
    cells = _select_finished(cells, leave_out, excluded)
    cells = _select_alike(cells, leave_out, excluded)
    cells = _label_variants(cells)
    _refuse_duplicates(cells)
    cells = _select_common_envs(cells, leave_out, excluded)
    cells = _select_common_seeds(cells, leave_out, excluded)
    if not cells:
        raise UserError("expected runs of all algorithms on one environment at one seed, got none after the exclusions")
    # Pairs are rows of the same seed, in whichever order the folders were named.
    return sorted(cells, key=lambda cell: cell.seed), excluded


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders in folders of runs and studies."""
    runs: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"expected run folders, folders of studies, or one study.toml, got '{folder}'; check the path"
            )
        children = sorted(path for path in folder.iterdir() if path.is_dir())
        inside = _runs_of(folder) or [run for child in children for run in _runs_of(child)]
        if not inside:
            raise UserError(
                f"'{folder}': expected a run (config.json) or a study (cells), got neither; use a run folder, or "
                "create one with rlalign train"
            )
        runs += inside
    return list(dict.fromkeys(runs))


def _runs_of(folder: Path) -> list[Path]:
    """Return the folder if it is a run, else the cells of the study in it.

    Hidden folders are skipped: a kill leaves one if it interrupts the transfer of a run from a cluster.
    """
    if (folder / "config.json").is_file():
        return [folder]
    cells = folder / "cells"
    runs = [path.parent for path in cells.rglob("config.json") if not is_model(path.parent)]
    return sorted(run for run in runs if not any(part.startswith(".") for part in run.relative_to(cells).parts))


def _config_of(run: Run) -> TrainConfig:
    """Return the run's configuration with its present folder, which may have been moved."""
    return replace(run.config, output=str(run.folder))


def _select_finished(cells: Sequence[Cell], leave_out: Exclusions, excluded: list[Failure]) -> list[Cell]:
    selected = []
    for cell in cells:
        if finished(cell.folder):
            selected.append(cell)
        elif leave_out.unfinished:
            excluded.append(_failure(cell, "not finished"))
        else:
            raise UserError(
                f"'{cell.folder}' is not finished; use rlalign train --resume {cell.folder}, or --exclude-unfinished"
            )
    return selected


def _select_alike(cells: Sequence[Cell], leave_out: Exclusions, excluded: list[Failure]) -> list[Cell]:
    """Return the cells with the budget, policy, rewards and held-out prompts of most runs of their environment."""
    # JSON texts, since dictionaries cannot be counted.
    texts: dict[int, str] = {}
    for cell in cells:
        settings = {**equal_settings(cell.config), "prompts": _prompts(cell.folder)}
        texts[id(cell)] = json.dumps(settings, sort_keys=True)
    usual = {}
    for env in {cell.env for cell in cells}:
        usual[env] = Counter(texts[id(cell)] for cell in cells if cell.env == env).most_common(1)[0][0]
    selected = []
    for cell in cells:
        actual = json.loads(texts[id(cell)])
        expected = json.loads(usual[cell.env])
        key = first_difference(actual, expected)
        if key is None:
            selected.append(cell)
            continue
        if key == "prompts":
            reason = "other held-out prompts"
        else:
            reason = f"{key} {actual[key]!r} where others have {expected[key]!r}"
        if not leave_out.mixed:
            raise UserError(f"'{cell.folder}' has {reason}; use --exclude-mixed to leave such runs out")
        excluded.append(_failure(cell, reason))
    return selected


def _prompts(folder: Path) -> list[str]:
    return [sample["prompt"] for sample in evaluation_of(folder)["samples"]]


def _label_variants(cells: Sequence[Cell]) -> list[Cell]:
    """Make runs of one algorithm with different settings separate competitors, labeled by these settings."""
    labeled = []
    for cell in cells:
        variants = [settings_of(c.config) for c in cells if (c.env, c.algorithm) == (cell.env, cell.algorithm)]
        settings = settings_of(cell.config)
        keys = [key for key in settings if any(variant.get(key) != settings[key] for variant in variants)]
        text = ", ".join(f"{key.split('.')[-1]} {shown(settings[key], 6)}" for key in keys)
        labeled.append(replace(cell, algorithm=f"{cell.algorithm} ({text})" if text else cell.algorithm))
    return labeled


def _refuse_duplicates(cells: Sequence[Cell]) -> None:
    first_of: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        first = first_of.setdefault((cell.env, cell.algorithm, cell.seed), cell)
        if first is not cell:
            raise UserError(
                f"'{first.folder}' and '{cell.folder}' are the same experiment at the same seed; use one of them"
            )


def _select_common_envs(cells: Sequence[Cell], leave_out: Exclusions, excluded: list[Failure]) -> list[Cell]:
    """Return the cells on environments on which every algorithm has a run."""
    algorithms = list(dict.fromkeys(cell.algorithm for cell in cells))
    selected = list(cells)
    for env in dict.fromkeys(cell.env for cell in cells):
        present = {cell.algorithm for cell in cells if cell.env == env}
        missing = next((algorithm for algorithm in algorithms if algorithm not in present), None)
        if missing is None:
            continue
        reason = f"{missing} has no run on {env}"
        if not leave_out.mixed:
            odd = _from_smaller([c for c in cells if c.env == env], [c for c in cells if c.algorithm == missing])
            raise UserError(
                f"'{odd.folder}' does not fit: {reason}; run it, "
                "or use --exclude-mixed to leave environments out that some algorithm lacks"
            )
        excluded += [_failure(cell, reason) for cell in selected if cell.env == env]
        selected = [cell for cell in selected if cell.env != env]
    return selected


def _select_common_seeds(cells: Sequence[Cell], leave_out: Exclusions, excluded: list[Failure]) -> list[Cell]:
    """Return the cells at seeds that every algorithm has on every environment."""
    available = {(cell.env, cell.algorithm, cell.seed) for cell in cells}
    algorithms = list(dict.fromkeys(cell.algorithm for cell in cells))
    envs = list(dict.fromkeys(cell.env for cell in cells))
    selected = list(cells)
    for seed in sorted({cell.seed for cell in cells}):
        missing = next(((e, a) for e in envs for a in algorithms if (e, a, seed) not in available), None)
        if missing is None:
            continue
        env, algorithm = missing
        reason = f"{algorithm} on {env} has no seed {seed}"
        if not leave_out.incomplete:
            odd = _from_smaller(
                [c for c in selected if c.seed == seed], [c for c in selected if c.algorithm == algorithm]
            )
            raise UserError(
                f"'{odd.folder}' does not fit: {reason}; run it, "
                "or use --exclude-incomplete to leave seeds out that some algorithm lacks"
            )
        excluded += [_failure(cell, reason) for cell in selected if cell.seed == seed]
        selected = [cell for cell in selected if cell.seed != seed]
    return selected


def _from_smaller(cells: Sequence[Cell], others: Sequence[Cell]) -> Cell:
    """Return a cell of the smaller group: of two groups that do not fit together, it more likely holds the mistake."""
    return min(cells, others, key=len)[0]


def _failure(cell: Cell, reason: str) -> Failure:
    return Failure(cell.env, cell.algorithm, cell.seed, str(cell.folder), reason)
