"""The results of a study as data."""
