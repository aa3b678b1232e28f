"""Everything that is written of a study's finished cells: results.json, results.csv, plots and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlalign.compare.analysis.aggregate import aggregate
from rlalign.compare.analysis.environment import analyze_environment
from rlalign.compare.analysis.fairness import (
    check_prompts,
    recorded_samples,
    unequal_costs,
    unequal_draws,
    unequal_starts,
)
from rlalign.compare.analysis.pairs import decide
from rlalign.compare.analysis.setting_differences import setting_differences
from rlalign.compare.analysis.verdict import count, verdict, warnings
from rlalign.compare.output.html import write_report
from rlalign.compare.output.plots import write_plots
from rlalign.compare.output.results_csv import write_csv
from rlalign.compare.records.run_records import Record, read_record, seconds_of
from rlalign.compare.results.manifest import manifest
from rlalign.compare.results.results_json import write_results
from rlalign.compare.results.schema import Failure, Results, Tuning
from rlalign.compare.study import Cell
from rlalign.errors import FaultError

_MAX_NAMES = 4  # names in a title; more are counted

Grid = dict[str, dict[int, Record]]
"""Algorithm -> seed -> record, of one environment."""


def write_findings(
    cells: Sequence[Cell],
    folder: Path,
    *,
    command: str,
    failed: Mapping[str, str] | None = None,
    excluded: Sequence[Failure] = (),
    tuning: Sequence[Tuning] = (),
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Results:
    """Analyze cells, write the results into a folder and return them.

    Args:
        cells: all cells of the study.
        folder: output folder.
        command: the command line, for the manifest.
        failed: cell name -> reason, of the cells that crashed.
        excluded: runs that were left out.
        tuning: the hyperparameter searches before the study.
        threshold: reward that counts as reached.
        notes: further warnings.

    Raises:
        FaultError: if an environment has no finished cell.
        UserError: if cells of an environment were measured on different held-out prompts.
    """
    reasons = failed or {}
    records = [read_record(cell, reasons.get(cell.name)) for cell in cells]
    grids = _grids(records)
    for env, grid in grids.items():
        _check_grid(env, grid)
    environments = decide({env: analyze_environment(grid, threshold) for env, grid in grids.items()})
    first_grid = next(iter(grids.values()))
    algorithms = list(first_grid)
    seeds = list(first_grid[algorithms[0]])
    failures = [
        Failure(r.cell.env, r.cell.algorithm, r.cell.seed, str(r.cell.folder), r.failure) for r in records if r.failure
    ]
    results = Results(
        title=f"{_names(algorithms, 'algorithm')} on {_names(list(environments), 'environment')}",
        verdict=verdict(environments, algorithms, len(seeds)),
        warnings=warnings(
            failures,
            excluded,
            [
                *unequal_starts(grids),
                *unequal_draws(environments),
                *unequal_costs(environments),
                *recorded_samples(records),
                *notes,
            ],
        ),
        algorithms=algorithms,
        seeds=seeds,
        environments=environments,
        aggregate=aggregate(environments, algorithms),
        differences=setting_differences(cells),
        failures=failures,
        excluded=list(excluded),
        tuning=list(tuning),
        manifest=manifest(command, cells, seconds_of(records)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, results)
    write_csv(folder, results)
    write_plots(folder, results)
    write_report(folder, results)
    return results


def _grids(records: Sequence[Record]) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    for record in records:
        grid = grids.setdefault(record.cell.env, {})
        grid.setdefault(record.cell.algorithm, {})[record.cell.seed] = record
    return grids


def _check_grid(env: str, grid: Grid) -> None:
    records = [record for seeds in grid.values() for record in seeds.values()]
    if all(record.failure for record in records):
        first = records[0]
        raise FaultError(f"every cell on {env} failed, {first.cell.folder} with: {first.failure}")
    check_prompts(records)


def _names(names: Sequence[str], kind: str) -> str:
    """Return the names, or their number if there are too many for a title."""
    return count(len(names), kind) if len(names) > _MAX_NAMES else ", ".join(names)
