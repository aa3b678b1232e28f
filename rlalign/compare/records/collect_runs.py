"""Runs that exist already as the cells of a study: what does not fit is named, and left out only when asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlalign.compare.analysis.fairness import budget, settings_of
from rlalign.compare.records.run_records import evaluation_of, finished
from rlalign.compare.results.schema import Failure
from rlalign.compare.study import Cell, label
from rlalign.config.overrides import shown
from rlalign.config.schema import TrainConfig
from rlalign.envs.registration import env_id
from rlalign.errors import UserError
from rlalign.run import Run


@dataclass(frozen=True)
class Excluding:
    """What may be left out."""

    unfinished: bool = False
    mixed: bool = False
    incomplete: bool = False


def gather(folders: Sequence[Path], leave_out: Excluding) -> tuple[list[Cell], list[Failure]]:
    """(cells, runs left out) of run folders or of folders of studies.

    Raises UserError naming each run that is not finished, is of another budget or policy than most, or is missing.
    """
    runs = [Run(folder) for folder in _expand(folders)]
    cells = [Cell(label(env_id(r.config.env)), r.config.algorithm, r.config.seed, _at(r)) for r in runs]
    excluded: list[Failure] = []
    cells = _finished(cells, leave_out, excluded)
    cells = _alike(cells, leave_out, excluded)
    cells = _labelled(cells)
    _refuse_twice(cells)
    return _complete(cells, leave_out, excluded), excluded


def _expand(folders: Sequence[Path]) -> list[Path]:
    """A study's folder stands for its cells, and a folder of runs or studies for what is in it."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder: give run folders, folders of studies, or one study.toml")
        children = sorted(p for p in folder.iterdir() if p.is_dir())
        inside = _runs(folder) or [run for child in children for run in _runs(child)]
        if not inside:
            raise UserError(f"'{folder}' holds neither a run (config.json) nor a study (cells)")
        found += inside
    return list(dict.fromkeys(found))


def _runs(folder: Path) -> list[Path]:
    """The folder itself, or a study's cells; a hidden one is what a kill left of a run that came from a cluster."""
    if (folder / "config.json").is_file():
        return [folder]
    cells = folder / "cells"
    found = (p.parent for p in cells.rglob("config.json"))
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(cells).parts))


def _at(run: Run) -> TrainConfig:
    """The run's configuration, with the folder where it lies now."""
    return replace(run.config, output=str(run.folder))


def _finished(cells: Sequence[Cell], leave_out: Excluding, excluded: list[Failure]) -> list[Cell]:
    kept = []
    for cell in cells:
        if finished(cell.folder):
            kept.append(cell)
        elif leave_out.unfinished:
            excluded.append(_failure(cell, "not finished"))
        else:
            raise UserError(
                f"'{cell.folder}' is not finished: rlalign train --resume {cell.folder}, "
                "or leave such runs out with --exclude-unfinished"
            )
    return kept


def _alike(cells: Sequence[Cell], leave_out: Excluding, excluded: list[Failure]) -> list[Cell]:
    """Those with the budget, policy, rewards and held-out prompts that most runs of their environment have."""
    keys = {id(c): json.dumps({**budget(c.config), "prompts": _prompts(c.folder)}, sort_keys=True) for c in cells}
    usual = {
        env: Counter(keys[id(c)] for c in cells if c.env == env).most_common(1)[0][0] for env in {c.env for c in cells}
    }
    kept = []
    for cell in cells:
        mine, theirs = json.loads(keys[id(cell)]), json.loads(usual[cell.env])
        key = next((k for k in mine if mine[k] != theirs[k]), None)
        if key is None:
            kept.append(cell)
            continue
        what = (
            "other held-out prompts" if key == "prompts" else f"{key} {mine[key]!r} where others have {theirs[key]!r}"
        )
        if not leave_out.mixed:
            raise UserError(f"'{cell.folder}' has {what}: leave such runs out with --exclude-mixed")
        excluded.append(_failure(cell, what))
    return kept


def _prompts(folder: Path) -> list[str]:
    return [sample["prompt"] for sample in evaluation_of(folder)["samples"]]


def _labelled(cells: Sequence[Cell]) -> list[Cell]:
    """Runs of one algorithm under different settings become competitors of their own, named by what differs."""
    named = []
    for cell in cells:
        same = [settings_of(c.config) for c in cells if (c.env, c.algorithm) == (cell.env, cell.algorithm)]
        mine = settings_of(cell.config)
        keys = [k for k in mine if any(other.get(k) != mine[k] for other in same)]
        words = ", ".join(f"{k.split('.')[-1]} {shown(mine[k], 6)}" for k in keys)
        named.append(replace(cell, algorithm=f"{cell.algorithm} ({words})" if words else cell.algorithm))
    return named


def _refuse_twice(cells: Sequence[Cell]) -> None:
    seen: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        other = seen.setdefault((cell.env, cell.algorithm, cell.seed), cell)
        if other is not cell:
            raise UserError(f"'{other.folder}' and '{cell.folder}' are the same experiment at the same seed: name one")


def _complete(cells: Sequence[Cell], leave_out: Excluding, excluded: list[Failure]) -> list[Cell]:
    """Cells of a whole grid: every algorithm on every environment at every seed."""
    have = {(c.env, c.algorithm, c.seed) for c in cells}
    algorithms = dict.fromkeys(c.algorithm for c in cells)
    kept = list(cells)
    for env in dict.fromkeys(c.env for c in cells):
        lacking = next((a for a in algorithms if not any((c.env, c.algorithm) == (env, a) for c in cells)), None)
        if lacking:
            reason = f"{lacking} has no run on {env}"
            if not leave_out.mixed:
                odd = _fewer([c for c in cells if c.env == env], [c for c in cells if c.algorithm == lacking])
                raise UserError(
                    f"'{odd.folder}' does not fit: {reason}; run it, "
                    "or leave the environments out that not all have with --exclude-mixed"
                )
            excluded += [_failure(c, reason) for c in kept if c.env == env]
            kept = [c for c in kept if c.env != env]
    envs = dict.fromkeys(c.env for c in kept)
    for seed in sorted({c.seed for c in kept}):
        missing = next(((e, a) for e in envs for a in algorithms if (e, a, seed) not in have), None)
        if missing:
            reason = f"{missing[1]} on {missing[0]} has no seed {seed}"
            if not leave_out.incomplete:
                odd = _fewer([c for c in kept if c.seed == seed], [c for c in kept if c.algorithm == missing[1]])
                raise UserError(
                    f"'{odd.folder}' does not fit: {reason}; run it, "
                    "or leave the seeds out that not all have with --exclude-incomplete"
                )
            excluded += [_failure(c, reason) for c in kept if c.seed == seed]
            kept = [c for c in kept if c.seed != seed]
    if not kept:
        raise UserError("nothing is left to compare: no seed of an environment is there for all algorithms")
    return sorted(kept, key=lambda cell: cell.seed)  # pairs are rows of the same seed, in whatever order runs came


def _fewer(some: Sequence[Cell], others: Sequence[Cell]) -> Cell:
    """One of the fewer: of two groups that do not fit together, more likely what was mixed in."""
    return min(some, others, key=len)[0]


def _failure(cell: Cell, reason: str) -> Failure:
    return Failure(cell.env, cell.algorithm, cell.seed, str(cell.folder), reason)
