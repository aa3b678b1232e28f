"""From two configurations to a defensible claim: grids of runs, their statistics, and what may be said of them.

study.py settings.py            what is asked, from the command line or a TOML file
compare.py grid.py              the command's work; all cells, going on where an earlier attempt stopped
display.py                      what is seen meanwhile, and how long it may take
workers.py cluster.py           where cells run: processes here, a Ray cluster
tuning.py spaces.py found.py    searches for settings, and what they found
gather.py                       runs that exist already
records.py                      what a run folder says of itself, and whether it is done
statistics.py curves.py         estimates, intervals, tests; what a curve says: pure functions
analysis.py pairs.py overall.py from records to results: an environment, two algorithms, all environments
estimates.py verdict.py         their numbers for results.json, and their sentences
fairness.py manifest.py         what is equal and what differs; where the numbers come from
results.py stored.py            what was found: the schema of results.json, and its text
conclude.py                     everything that is written of a study
tables.py pictures.py           terminal, results.csv and PNGs
report/                         report.html of a study, a run or a search
"""
