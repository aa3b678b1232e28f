"""Execution of the cells of a study, on this machine or on a Ray cluster."""
