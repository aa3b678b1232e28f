"""Scoring given tokens: packed rows and fused log-probs."""
