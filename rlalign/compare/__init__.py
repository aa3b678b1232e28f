"""Comparison of algorithms: studies of many runs, their statistics, and the claims that the data support.

study.py, study_file.py   the question: algorithms × environments × seeds, and its TOML file
data_settings.py          the algorithms that read a study's recorded data
warm_start.py             runs that train the initial policies of a study
cell_settings.py          settings that affect a result, and settings that must be equal within an environment
run_study.py              `rlalign compare`: run a study, or analyze runs that exist
run_search.py             `rlalign tune`: search settings with optuna
running/                  execution of cells: local processes, Ray workers, progress display
records/                  results of finished runs, read from their folders
analysis/                 estimates, intervals, tests and the verdict, computed from records
results/                  the schema of results.json, reading and writing it, the manifest
tuning/                   search spaces, trials and search results
output/                   tables, pictures and the HTML report

The public names are loaded on first use, because a study that is only described needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.compare.results.results_json import read_results
    from rlalign.compare.run_study import Placement, compare_runs, compare_study
    from rlalign.compare.study import Study, TuneSettings, build_cells
    from rlalign.compare.study_file import read_study

__all__ = [
    "Placement",
    "Study",
    "TuneSettings",
    "build_cells",
    "compare_runs",
    "compare_study",
    "read_results",
    "read_study",
]

_MODULES = {
    "results.results_json": ("read_results",),
    "run_study": ("Placement", "compare_runs", "compare_study"),
    "study": ("Study", "TuneSettings", "build_cells"),
    "study_file": ("read_study",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
