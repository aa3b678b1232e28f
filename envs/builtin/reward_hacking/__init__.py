"""Environments with planted reward hacks."""
