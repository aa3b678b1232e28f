"""results.csv: the results of a study as a flat file, one row per cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.compare.analysis.estimates import as_array
from rlalign.compare.results.schema import BUDGETS, Results
from rlalign.escaping.spreadsheet import cell
from rlalign.storage.atomic import write_atomic


def write_csv(folder: Path, results: Results) -> Path:
    """Write results.csv atomically and return its path."""
    rows = list(csv_rows(results))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return write_atomic(folder / "results.csv", file.getvalue())


def csv_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row per environment, algorithm and seed; a budget is empty if the threshold was not reached."""
    for env_name, env in results.environments.items():
        for algorithm, result in env.algorithms.items():
            final = as_array(result.final)
            start = as_array(result.start)
            for i, seed in enumerate(results.seeds):
                row: dict[str, Any] = {
                    "env": env_name,
                    "algorithm": algorithm,
                    "seed": seed,
                    "failed": result.failed[i],
                    "start": np.nanmean(start[i]),
                    "reward": np.nanmean(final[i]),
                }
                for budget in BUDGETS:
                    row[f"auc_{budget}"] = result.auc_seeds[budget][i]
                for budget in BUDGETS:
                    to_threshold = result.to_threshold.get(budget)
                    reached = to_threshold is not None and to_threshold.reached[i]
                    row[f"{budget}_to_threshold"] = to_threshold.spent[i] if to_threshold and reached else ""
                yield row
