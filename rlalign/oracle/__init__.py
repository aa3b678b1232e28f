"""Exact gradients: the expected update of an objective, by enumeration instead of sampling.

A token MDP small enough to be enumerated (V = 3 with EOS, horizon 4: 31 completions, a softmax table of 15 prefixes ×
3) gives J and its gradient in closed form. It also gives the expectation of any objective's gradient, as a sum over
every group of completions times its probability. The objective runs through the same `compute_advantages` and
`policy_loss` as in training.

    relative error   |g - g*| / |g*|
    cosine           <g, g*> / |g| |g*|
    scale            <g, g*> / |g*|²

g is the expected update and g* the gradient of the objective's stated maximand: E[R], with the length penalty if it has
one, minus beta · KL(pi‖ref) if it has a KL term.

Modules: mdp (the enumerable MDP), expectation (expected gradients), comparison (g against g*), formula (an objective as
text), advantage_check (a custom advantage before a run), resolve (names to algorithms), rows (the report), page
(docs/reference/algorithms.md).
"""

from __future__ import annotations

from rlalign.oracle.comparison import EXACT as EXACT
from rlalign.oracle.comparison import Comparison
from rlalign.oracle.expectation import difficulty_weight, expected_gradient, projected_moments
from rlalign.oracle.mdp import EOS as EOS
from rlalign.oracle.mdp import TokenMDP
from rlalign.oracle.page import markdown as markdown
from rlalign.oracle.rows import Row, compare, kl_suite, report
from rlalign.oracle.rows import text as text

__all__ = [
    "Comparison",
    "Row",
    "TokenMDP",
    "compare",
    "difficulty_weight",
    "expected_gradient",
    "kl_suite",
    "projected_moments",
    "report",
]
