"""Environments with several turns."""
