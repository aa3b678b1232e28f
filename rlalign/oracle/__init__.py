"""Exact gradients: what an objective's update is in expectation, as a number and not as a sample.

A token MDP small enough to be enumerated (V = 3 with EOS, horizon 4: 31 completions, a softmax table of 15 prefixes ×
3) gives J and its gradient in closed form, and the expectation of any objective's gradient by summing over every group
of completions with its probability. The objective runs through the same `advantages` and `policy_loss` as in training.

    relative error   |g - g*| / |g*|
    cosine           <g, g*> / |g| |g*|
    scale            <g, g*> / |g*|²

g* is the gradient of what the objective says it maximises: E[R], with its length penalty where it has one, minus beta ·
KL(pi‖ref) where it has a KL term.
"""

from __future__ import annotations

from rlalign.oracle.comparison import EXACT, Comparison
from rlalign.oracle.expectation import difficulty_weight, expected_gradient, projected_moments
from rlalign.oracle.mdp import EOS, TokenMDP
from rlalign.oracle.page import markdown
from rlalign.oracle.rows import Row, compare, kl_suite, report, text

__all__ = [
    "EOS",
    "EXACT",
    "Comparison",
    "Row",
    "TokenMDP",
    "compare",
    "difficulty_weight",
    "expected_gradient",
    "kl_suite",
    "markdown",
    "projected_moments",
    "report",
    "text",
]
