"""From two configurations to a defensible claim: grids of runs, their statistics, and what may be said of them.

study.py settings.py            what is asked, from the command line or a TOML file
compare.py grid.py              the command's work; all cells, going on where an earlier attempt stopped
workers.py cluster.py cell.py   where cells run: processes here, a Ray cluster; when one is done
tuning.py spaces.py             searches for settings
gather.py                       runs that exist already
records.py                      what a run folder says of itself
statistics.py                   estimates, intervals, tests: pure functions
analysis.py verdict.py          from records to results, and to sentences
fairness.py manifest.py         what is equal and what differs; where the numbers come from
results.py                      what was found: the schema of results.json
conclude.py                     everything that is written of a study
tables.py pictures.py           terminal, results.csv and PNGs
report.py run_report.py         report.html; page.py, html.py, svg.py, figures.py and numbers.py draw it
"""
