"""Execution of a model's program on Linux.

`run.py` starts a new process, `program.py` is its program, `isolation.py` holds the limits that it sets for itself.
"""
