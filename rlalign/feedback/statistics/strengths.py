"""Strengths of policies from comparisons: Bradley-Terry with ties, and with terms for position, length and Markdown.

The fit is Newton's method on the log-likelihood, which is concave. Votes with the same policies and outcome are one row
with a weight, unless a term has another value for each vote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlalign.feedback.statistics.intervals import Covariance, covariance, sums_by
from rlalign.feedback.statistics.judgments import BAD, LOSS, TIE, WIN, Judgments
from rlalign.feedback.statistics.likelihoods import Derivatives, Likelihood, bradley_terry, davidson, rao_kupper
from rlalign.feedback.statistics.markdown import STYLES
from rlalign.feedback.statistics.win_rates import inverse_weights
from rlalign.types import FloatArray, IntArray

Model = Literal["davidson", "rao-kupper", "ties dropped"]
"""Models of ties in comparisons."""
MODELS: dict[Model, tuple[Likelihood, str, str]] = {
    "davidson": (
        davidson, "Bradley-Terry strengths with ties by Davidson",
        "Davidson (1970), J. American Statistical Association 65:317-328",
    ),
    "rao-kupper": (
        rao_kupper, "Bradley-Terry strengths with ties by Rao and Kupper",
        "Rao and Kupper (1967), J. American Statistical Association 62:194-204",
    ),
    "ties dropped": (
        bradley_terry, "Bradley-Terry strengths, ties dropped", "Bradley and Terry (1952), Biometrika 39:324-345"
    ),
}  # fmt: skip
TERMS = ("position", "length", *STYLES)
"""Terms that can enter the fit. "position" is 1 if the first completion was on the left, else -1; the others are
(a - b) / (a + b) of the counts of both completions, divided by its standard deviation (Arena's style control, Li,
Angelopoulos and Chiang 2024, lmsys.org/blog/2024-08-28-style-control)."""
_STEPS = 100
_LARGEST = 15.0
"""Log odds beyond which a parameter counts as infinite: three million to one. A likelihood without a maximum rises by
less and less along the way there, so that the gradient alone does not show it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for which there is no fit and no ranking.

    Attributes:
        reason: "no votes"; "one policy"; "disconnected": some policies were never compared, not even indirectly;
            "separated": some policies won each comparison with the others, so that their strength is infinite;
            "only ties"; "not converged".
        detail: names the policies.
    """

    reason: Literal["no votes", "one policy", "disconnected", "separated", "only ties", "not converged"]
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Return the reason as JSON values."""
        return {"refused": self.reason, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Strengths:
    """A fit.

    Attributes:
        policies: indices of the P policies that were compared.
        values: strengths (log odds) with sum 0, [P].
        tie: ν of Davidson or θ of Rao and Kupper; NaN in a model without ties.
        terms: names of the C terms.
        effects: their coefficients, [C].
        covariance: of the strengths and effects, [P + C, P + C].
        model: name of the model.
        method: the model in words.
        source: its paper.
        log_likelihood: of the votes.
    """

    policies: tuple[int, ...]
    values: FloatArray
    tie: float
    terms: tuple[str, ...]
    effects: FloatArray
    covariance: Covariance
    model: str
    method: str
    source: str
    log_likelihood: float

    def strengths_covariance(self) -> Covariance:
        """Return the covariance of the strengths, [P, P]."""
        return self.covariance.of(np.eye(len(self.values), len(self.values) + len(self.effects)))


def fit(pairs: Judgments, model: Model = "davidson", terms: Sequence[str] = ()) -> Strengths | Refusal:
    """Return the strengths of policies, or the reason why there are none.

    "Both are bad" is a tie. Votes on items that were selected by another rule than at random have the weight of their
    inverse selection probability.

    Args:
        pairs: votes that `rlalign.feedback.statistics.win_rates.comparisons` returned.
        model: of ties.
        terms: of `TERMS`; those without variation are left out.
    """
    outcome = np.where(pairs.outcome == BAD, TIE, pairs.outcome)
    if model == "ties dropped":
        pairs = pairs.take(outcome != TIE)
        outcome = outcome[outcome != TIE]
    if not len(pairs):
        return Refusal("no votes", "expected votes on pairs of different policies, got none")
    present = np.union1d(pairs.first, pairs.second)
    first, second = np.searchsorted(present, pairs.first), np.searchsorted(present, pairs.second)
    labels = [pairs.policies[i] for i in present]
    refusal = _existence(first, second, outcome, labels)
    if refusal is not None:
        return refusal
    likelihood, method, source = MODELS[model]
    has_ties = bool((outcome == TIE).any())
    if not has_ties:
        likelihood = bradley_terry  # the limit of both models for a share of ties of 0
    table = design(pairs, terms)
    used = tuple(table)
    z = np.stack(list(table.values()), 1) if table else np.zeros((len(pairs), 0))
    weights = inverse_weights(pairs)
    w = np.ones(len(pairs)) if weights is None else weights * len(weights) / weights.sum()
    problem, row_of_vote = _aggregated(first, second, outcome, z, w, len(present))
    solution = newton(problem, likelihood, has_ties=has_ties)
    if solution is None:
        return Refusal("not converged", "the fit found no finite maximum, possibly because a term predicts each answer")
    parameters, derivatives, information = solution
    # from the parameters (policies but the first, terms, ties) to centered strengths and effects
    p, c = len(present), z.shape[1]
    size = len(parameters)
    center = np.zeros((p + c, size))
    center[:p, : p - 1] = np.eye(p)[:, 1:] - 1.0 / p
    center[p:, p - 1 : p - 1 + c] = np.eye(c)
    values = center @ parameters
    mapping = center @ np.linalg.inv(information)
    influence = _scores(problem, derivatives, row_of_vote, w, z, first, second, size) @ mapping.T
    name = method + (f", with terms for {', '.join(used)}" if used else "")
    return Strengths(
        policies=tuple(int(i) for i in present),
        values=values[:p],
        tie=float(np.exp(parameters[-1])) if has_ties and model != "ties dropped" else math.nan,
        terms=used,
        effects=values[p:],
        covariance=covariance(influence, pairs.group, pairs.person),
        model=model,
        method=name,
        source=source,
        log_likelihood=float(problem.weight @ derivatives.value),
    )


def design(pairs: Judgments, terms: Sequence[str]) -> dict[str, FloatArray]:
    """Return the values of terms for each vote, without those that do not vary; see `TERMS`."""
    columns = {}
    for term in terms:
        if term == "position":
            column = np.where(pairs.first_left, 1.0, -1.0)
        else:
            counts = pairs.length if term == "length" else pairs.markdown[:, :, STYLES.index(term)]
            a, b = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
            column = (a - b) / np.maximum(a + b, 1)
            column /= max(float(column.std()), 1e-12)
        if np.ptp(column) > 0:
            columns[term] = column
    return columns


# ---- existence of a maximum ----


def comparison_refusal(pairs: Judgments) -> Refusal | None:
    """Return the reason why comparisons determine no strengths; None if they do."""
    if not len(pairs):
        return Refusal("no votes", "expected votes on pairs of different policies, got none")
    present = np.union1d(pairs.first, pairs.second)
    first, second = np.searchsorted(present, pairs.first), np.searchsorted(present, pairs.second)
    return _existence(first, second, pairs.outcome, [pairs.policies[i] for i in present])


def _existence(first: IntArray, second: IntArray, outcome: IntArray, labels: Sequence[str]) -> Refusal | None:
    """Return the reason why the likelihood has no maximum; None if it has one.

    Source: Ford (1957), American Mathematical Monthly 64:28-33: the graph of wins is strongly connected. A tie counts
    in both directions.
    """
    p = len(labels)
    if p < 2:
        return Refusal("one policy", "expected two policies or more")
    groups, member = _components(first, second, p, directed=False)
    if groups > 1:
        parts = _named(member, groups, labels)
        return Refusal("disconnected", f"never compared with each other, not even indirectly: {parts}")
    if (outcome == TIE).all():
        return Refusal("only ties", "expected some decisive votes, got ties only")
    winners = np.concatenate([first[outcome != LOSS], second[outcome != WIN]])
    losers = np.concatenate([second[outcome != LOSS], first[outcome != WIN]])
    groups, member = _components(winners, losers, p, directed=True)
    if groups > 1:
        parts = _named(member, groups, labels)
        return Refusal("separated", f"each comparison between these groups was won by the same side: {parts}")
    return None


def _components(start: IntArray, end: IntArray, p: int, *, directed: bool) -> tuple[int, IntArray]:
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(p, p)).tocsr()
    number, member = connected_components(graph, directed=directed, connection="strong")
    return int(number), member


def _named(member: IntArray, groups: int, labels: Sequence[str]) -> str:
    sets = [", ".join(labels[i] for i in np.flatnonzero(member == g).tolist()) for g in range(groups)]
    return " | ".join(sorted(sets))


# ---- Newton's method ----


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows of comparisons: policies, outcome, terms [R, C], weight, and the number of policies."""

    first: IntArray
    second: IntArray
    outcome: IntArray
    z: FloatArray
    weight: FloatArray
    policies: int


def _aggregated(
    first: IntArray, second: IntArray, outcome: IntArray, z: FloatArray, weight: FloatArray, policies: int
) -> tuple[Problem, IntArray]:
    """Return one row per policies, outcome and values of the terms, if these are few, and the row of each vote."""
    key = (first * policies + second) * (WIN + 1) + outcome
    discrete = all(len(np.unique(column[:100])) <= 2 for column in z.T)
    if discrete:
        for column in z.T:
            key = key * 2 + (column == column.max())
        discrete = all(len(np.unique(column)) <= 2 for column in z.T)
    if not discrete:
        return Problem(first, second, outcome, z, weight, policies), np.arange(len(first))
    row: IntArray
    _, example, row = np.unique(key, return_index=True, return_inverse=True)
    total = sums_by(row, weight, len(example))
    return Problem(first[example], second[example], outcome[example], z[example], total, policies), row


def newton(
    problem: Problem, likelihood: Likelihood, *, has_ties: bool
) -> tuple[FloatArray, Derivatives, FloatArray] | None:
    """Maximize a log-likelihood; return parameters, derivatives per row and the information; None without a maximum.

    The parameters are the strengths of all policies but the first, which is 0, the effects of the terms, and that of
    ties if there are any.
    """
    p, c = problem.policies, problem.z.shape[1]
    size = p - 1 + c + int(has_ties)
    parameters = np.zeros(size)
    if has_ties:
        parameters[-1] = 0.5

    def evaluate(at: FloatArray) -> Derivatives:
        strengths = np.concatenate([[0.0], at[: p - 1]])
        x = strengths[problem.first] - strengths[problem.second] + problem.z @ at[p - 1 : p - 1 + c]
        return likelihood(x, float(at[-1]) if has_ties else 0.0, problem.outcome)

    current = evaluate(parameters)
    height = float(problem.weight @ current.value)
    for _ in range(_STEPS):
        gradient, information = _gradient(problem, current, has_ties=has_ties)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return None
        decrement = float(gradient @ step)
        if not math.isfinite(decrement) or np.abs(parameters).max() > _LARGEST:
            return None
        if decrement < 1e-12 * max(1.0, problem.weight.sum()):
            return parameters, current, information
        scale = 1.0
        while True:
            candidate = parameters + scale * step
            proposed = evaluate(candidate)
            new = float(problem.weight @ proposed.value)
            if math.isfinite(new) and new >= height:
                break
            scale /= 2
            if scale < 1e-8:  # no step rises: the maximum up to rounding, or a numerical fault
                return (parameters, current, information) if decrement < 1e-6 else None
        parameters, current, height = candidate, proposed, new
    return None


def _gradient(problem: Problem, d: Derivatives, *, has_ties: bool) -> tuple[FloatArray, FloatArray]:
    """Return the gradient and the negative Hessian of the log-likelihood by the parameters."""
    p, z, w = problem.policies, problem.z, problem.weight
    first, second = problem.first, problem.second

    def by_policy(values: FloatArray) -> FloatArray:
        return sums_by(first, values, p) - sums_by(second, values, p)

    gx, hxx, hxt = w * d.x, -w * d.xx, -w * d.x_tie
    gradient = [by_policy(gx)[1:], z.T @ gx]
    between = sums_by(first * p + second, hxx, p * p).reshape(p, p)
    between = between + between.T
    c, size = z.shape[1], p - 1 + z.shape[1]
    information = np.zeros((size + int(has_ties), size + int(has_ties)))
    information[: p - 1, : p - 1] = (np.diag(between.sum(1)) - between)[1:, 1:]
    information[p - 1 : size, p - 1 : size] = z.T @ (hxx[:, None] * z)
    for column in range(c):
        information[: p - 1, p - 1 + column] = by_policy(hxx * z[:, column])[1:]
    if has_ties:
        gradient.append(np.array([w @ d.tie]))
        information[:size, -1] = np.concatenate([by_policy(hxt)[1:], z.T @ hxt])
        information[-1, -1] = -(w @ d.tie_tie)
    lower = np.tril_indices(len(information), -1)
    information[lower] = information.T[lower]
    return np.concatenate(gradient), information


def _scores(
    problem: Problem, d: Derivatives, row: IntArray, weight: FloatArray, z: FloatArray, first: IntArray,
    second: IntArray, size: int,
) -> FloatArray:  # fmt: skip
    """Return the gradient of each vote by the parameters, [N, size]."""
    p, c = problem.policies, z.shape[1]
    slope = weight * d.x[row]
    scores = np.zeros((len(first), size + 1))
    votes = np.arange(len(first))
    scores[votes, first] = slope
    scores[votes, second] = -slope
    scores[:, p : p + c] = slope[:, None] * z
    if size > p - 1 + c:
        scores[:, -1] = weight * d.tie[row]
    return scores[:, 1:]  # the first policy is the reference
