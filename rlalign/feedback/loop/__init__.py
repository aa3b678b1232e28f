"""The online loop: rounds of pairs from the present policy, votes, a reward model, a few policy-gradient steps.

plan    the table [loop] of study.toml
state   loop.json: the steps that are done, and their results
rounds  the steps of a round, each of which can be repeated
run     the loop over rounds and steps
"""
