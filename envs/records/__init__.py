"""Typed records of data files, data frames, data sets and lists.

values      plain Python values; a missing one is None
prompts     texts and messages, and what is wrong with another prompt
readers     readers of .jsonl, .json, .csv, .tsv and .parquet
table       records with their places: file and line
task        one record as a task
splits      names of splits
"""
