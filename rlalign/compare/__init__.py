"""Comparison of algorithms: studies of many runs, their statistics, and the claims that the data support.

study.py, study_file.py   the question: algorithms × environments × seeds, and its TOML file
cell_settings.py          settings that affect a result, and settings that must be equal within an environment
run_study.py              `rlalign compare`: run a study, or analyze runs that exist
run_search.py             `rlalign tune`: search settings with optuna
running/                  execution of cells: local processes, Ray workers, progress display
records/                  results of finished runs, read from their folders
analysis/                 estimates, intervals, tests and the verdict, computed from records
results/                  the schema of results.json, reading and writing it, the manifest
tuning/                   search spaces, trials and search results
output/                   tables, pictures and the HTML report
"""
