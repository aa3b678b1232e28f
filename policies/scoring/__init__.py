"""Scoring of given tokens: packed rows, optimized modules and fused log-probs."""
