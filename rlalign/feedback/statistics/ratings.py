"""Ratings on a scale: an ordinal model of the policies, beside comparisons of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from rlalign.feedback.statistics.estimate import TwoEstimates
from rlalign.feedback.statistics.intervals import Covariance, covariance, share_of_influences, sums_by
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.feedback.statistics.strengths import Refusal
from rlalign.types import FloatArray, IntArray

METHOD = "cumulative logit model of the points"
SOURCE = "McCullagh (1980), J. Royal Statistical Society B 42:109-142"
RANK_METHOD = "probability that a rating of the first policy is above one of the second, plus half of equal ones"
RANK_SOURCE = (
    "Mann and Whitney (1947), Annals of Mathematical Statistics 18:50-60; in clusters: Obuchowski (1997), Biometrics "
    "53:567-578"
)
_LARGEST = 15.0


@dataclass(frozen=True, slots=True)
class OrdinalFit:
    """A fit of the ordinal model.

    Attributes:
        policies: indices of the P policies.
        values: locations (log odds) with sum 0, [P].
        thresholds: of the points that occur, in ascending order.
        covariance: of the locations, [P, P].
        log_likelihood: of the ratings.
    """

    policies: tuple[int, ...]
    values: FloatArray
    thresholds: FloatArray
    covariance: Covariance
    log_likelihood: float


def rated(judgments: Judgments, scale: int) -> tuple[Judgments, IntArray]:
    """Return the counted ratings of policies on a scale, and their points."""
    points = judgments.ratings[:, scale]
    rows = judgments.counted & (points > 0) & (judgments.first >= 0)
    return judgments.take(rows), points[rows]


def fit_ratings(judgments: Judgments, scale: int) -> OrdinalFit | Refusal:
    """Return the location of each policy on a scale, or the reason why there is none.

    With locations θ and thresholds τ, in ascending order (points that nobody gave have no threshold)::

        P(points of policy i ≤ k) = 1 / (1 + exp(-(τ_k - θ_i)))

    Intervals are clustered by prompt, and by annotator for the population. Source: McCullagh (1980).
    """
    votes, points = rated(judgments, scale)
    if not len(votes):
        return Refusal("no votes", "expected ratings of policies, got none")
    present, policy = np.unique(votes.first, return_inverse=True)
    used, level = np.unique(points, return_inverse=True)
    labels = [votes.policies[i] for i in present]
    if len(present) < 2:
        return Refusal("one policy", "expected two policies or more")
    if len(used) < 2:
        return Refusal("only ties", "expected different points, got the same from everybody")
    p, k = len(present), len(used)
    counts = sums_by(policy * k + level, np.ones(len(level)), p * k).reshape(p, k)
    low = {labels[i] for i in range(p) if counts[i, 1:].sum() == 0}
    high = {labels[i] for i in range(p) if counts[i, :-1].sum() == 0}
    if low or high:
        return Refusal("separated", f"all points at one end of the scale: {', '.join(sorted(low | high))}")
    for cut in range(1, k):  # policies on both sides of a point, and none in between: the gap has no maximum
        below, above = counts[:, :cut].sum(1), counts[:, cut:].sum(1)
        if not ((below > 0) & (above > 0)).any():
            upper = ", ".join(sorted(labels[i] for i in range(p) if above[i] > 0))
            return Refusal("separated", f"all points of {upper} are above all points of the others")

    rows_policy, rows_level = np.repeat(np.arange(p), k), np.tile(np.arange(k), p)

    def loss(at: FloatArray) -> tuple[float, FloatArray]:
        value, scores = _scores(at, rows_policy, rows_level, p, k)
        weight = counts.reshape(-1)
        return -float(weight @ value), -(weight @ scores)

    share = np.cumsum(counts.sum(0))[:-1] / counts.sum()
    start = special.logit(share)
    # thresholds as the first one and the logarithms of the gaps, so that they stay in order
    initial = np.concatenate([np.zeros(p - 1), start[:1], np.log(np.maximum(np.diff(start), 1e-3))])
    solution = optimize.minimize(loss, initial, jac=True, method="BFGS", options={"gtol": 1e-7 * counts.sum()})
    at = solution.x
    gradient = loss(at)[1]
    if np.abs(gradient).max() > 1e-5 * counts.sum() or np.abs(at).max() > _LARGEST:
        return Refusal("not converged", "the fit of the ratings found no finite maximum")
    information = _hessian(lambda b: loss(b)[1], at)
    center = np.zeros((p, len(at)))
    center[:, : p - 1] = np.eye(p)[:, 1:] - 1.0 / p
    mapping = center @ np.linalg.inv(information)
    _, scores = _scores(at, policy, level, p, k)
    return OrdinalFit(
        policies=tuple(int(i) for i in present),
        values=center @ at,
        thresholds=_thresholds(at[p - 1 :]),
        covariance=covariance(scores @ mapping.T, votes.group, votes.person),
        log_likelihood=-float(solution.fun),
    )


def _thresholds(at: FloatArray) -> FloatArray:
    return np.concatenate([at[:1], at[:1] + np.cumsum(np.exp(at[1:]))])


def _scores(at: FloatArray, policy: IntArray, level: IntArray, p: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Return log-likelihood [R] and gradient [R, parameters] of each row."""
    theta = np.concatenate([[0.0], at[: p - 1]])[policy]
    tau = np.concatenate([[-np.inf], _thresholds(at[p - 1 :]), [np.inf]])
    upper, lower = tau[level + 1] - theta, tau[level] - theta
    above, below = special.expit(upper), special.expit(lower)
    mass = np.maximum(above - below, 1e-300)
    slope_upper, slope_lower = above * (1 - above) / mass, below * (1 - below) / mass
    scores = np.zeros((len(policy), p + k - 1))
    scores[np.arange(len(policy)), policy] = slope_lower - slope_upper  # by the location
    # a threshold is the first one plus the gaps up to it
    scores[:, p] = slope_upper - slope_lower
    for gap in range(1, k - 1):
        width = float(np.exp(at[p - 1 + gap]))
        scores[:, p + gap] = width * (slope_upper * (level >= gap) - slope_lower * (level > gap))
    return np.log(mass), scores[:, 1:]


def _hessian(gradient: Callable[[FloatArray], FloatArray], at: FloatArray) -> FloatArray:
    """Return the matrix of second derivatives by central differences of an analytic gradient."""
    step = 1e-5
    columns = []
    for i in range(len(at)):
        move = np.zeros_like(at)
        move[i] = step
        columns.append((gradient(at + move) - gradient(at - move)) / (2 * step))
    matrix = np.stack(columns, 1)
    symmetric: FloatArray = (matrix + matrix.T) / 2
    return symmetric


def superiority(judgments: Judgments, scale: int) -> dict[tuple[int, int], TwoEstimates]:
    """Return P(X > Y) + P(X = Y) / 2 of ratings X and Y of each two policies, with both intervals.

    It needs no model and no distance between points. With the distribution functions F (the mean of both sides of a
    jump), the influence of x is (F_Y(x) - P) / n and that of y is (1 - F_X(y) - P) / m; it is summed over clusters. As
    in a win rate, two prompts are added, one of which the first policy wins and one the second.
    """
    votes, points = rated(judgments, scale)
    result = {}
    for first, second in itertools.combinations(np.unique(votes.first).tolist(), 2):
        x, y = votes.first == first, votes.first == second
        below, equal = _ranks(points[x], points[y])
        above_y = (below + equal / 2) / y.sum()
        below_y, equal_y = _ranks(points[y], points[x])
        above_x = 1 - (below_y + equal_y / 2) / x.sum()
        value = float(above_y.mean())
        influence = np.zeros(len(votes))
        influence[x] = (above_y - value) / x.sum()
        influence[y] = (above_x - value) / y.sum()
        rows = x | y
        result[first, second] = share_of_influences(
            value, influence[rows], votes.group[rows], votes.person[rows], method=RANK_METHOD, source=RANK_SOURCE
        )
    return result


def _ranks(values: IntArray, others: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return how many of the others are below each value, and how many are equal."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left").astype(np.float64)
    return below, np.searchsorted(ordered, values, "right") - below
