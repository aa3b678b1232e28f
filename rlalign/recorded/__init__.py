"""Recorded data that runs learn from: demonstrations, logged rewards, preferences and labels, as token ids.

columns        which kind of data a file holds, by its columns
rows           demonstrations, rewards and labels of rows
encode         a prompt and its completion as the token ids of a rollout; conversations of several turns
items          rows of a source with their kind, divided into training and held-out data by prompts
read           a source as groups of trajectories
held_out       likelihood, accuracy and loss on held-out data
prompts        the prompts of recorded data as an environment
importance     importance weights of logged rewards

`rlalign.rollout.recorded` draws the rollouts of a run from the result.
"""
