"""Evaluation on held-out prompts: one policy, two policies paired by prompt, and a finished run."""
