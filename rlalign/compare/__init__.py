"""From two configurations to a defensible claim: grids of runs, their statistics, and what may be said of them.

study.py       what is asked: algorithms × environments × seeds, from the command line or a TOML file
results.py     what was found: the schema of results.json
"""
