"""Procedural tasks on short strings."""
