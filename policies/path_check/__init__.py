"""The proof of a path: the fastest way through a model that returns the log-probs of plain rows.

prove       prove_paths: the proof, or the stored verdict of an earlier one
rows        rows that cross the lengths that a configuration names
measure     log-probs of the rows by a path and by plain forward passes, and their difference
verdict     the result of a proof, and its file in the cache
"""
