"""Held-out prompts: one policy, two side by side, a run against its start or another."""
