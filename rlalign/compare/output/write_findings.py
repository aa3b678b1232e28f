"""From cells that have run to everything that is written of them: results.json, results.csv, pictures, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlalign.compare.analysis.aggregate import aggregate
from rlalign.compare.analysis.environment import analyze_environment
from rlalign.compare.analysis.fairness import check_prompts, unequal_draws, unequal_starts
from rlalign.compare.analysis.pairs import decide
from rlalign.compare.analysis.setting_differences import setting_differences
from rlalign.compare.analysis.verdict import count, verdict, warnings
from rlalign.compare.output.html import write_report
from rlalign.compare.output.pictures import draw
from rlalign.compare.output.tables import write_csv
from rlalign.compare.records.run_records import Record, read_record, seconds_of
from rlalign.compare.results.manifest import manifest
from rlalign.compare.results.results_json import write_results
from rlalign.compare.results.schema import Failure, Results, Tuning
from rlalign.compare.study import Cell
from rlalign.errors import FaultError

_IN_TITLE = 4  # so many names at most


def conclude(
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
    """Analyse cells and write what was found into a folder.

    Args:
        cells: a whole grid.
        folder: where to write.
        command: what was typed.
        failed: name -> reason of the cells that crashed.
        excluded: runs that were left out.
        tuning: the searches that went before.
        threshold: reward that counts as reached.
        notes: further warnings.

    Raises:
        FaultError: when an environment has no finished cell.
        UserError: when cells of an environment were measured on different held-out prompts.
    """
    failed = failed or {}
    records = [read_record(cell, failed.get(cell.name)) for cell in cells]
    grids: dict[str, dict[str, dict[int, Record]]] = {}
    for r in records:
        grids.setdefault(r.cell.env, {}).setdefault(r.cell.algorithm, {})[r.cell.seed] = r
    for env, grid in grids.items():
        if all(r.failure for row in grid.values() for r in row.values()):
            one = next(r for row in grid.values() for r in row.values())
            raise FaultError(f"every cell on {env} failed, {one.cell.folder} with: {one.failure}")
        check_prompts([r for row in grid.values() for r in row.values()])
    environments = decide({env: analyze_environment(grid, threshold) for env, grid in grids.items()})
    algorithms = list(next(iter(grids.values())))
    seeds = list(next(iter(next(iter(grids.values())).values())))
    failures = [
        Failure(r.cell.env, r.cell.algorithm, r.cell.seed, str(r.cell.folder), r.failure) for r in records if r.failure
    ]
    results = Results(
        title=f"{_named(algorithms, 'algorithm')} on {_named(list(environments), 'environment')}",
        verdict=verdict(environments, algorithms, len(seeds)),
        warnings=warnings(failures, excluded, [*unequal_starts(grids), *unequal_draws(environments), *notes]),
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
    draw(folder, results)
    write_report(folder, results)
    return results


def _named(names: Sequence[str], what: str) -> str:
    """Names, or how many there are where they would not make a title."""
    return count(len(names), what) if len(names) > _IN_TITLE else ", ".join(names)
