"""Strengths of policies from rankings: Plackett-Luce with ties."""

from __future__ import annotations

import itertools
import math

import numpy as np

from rlalign.feedback.statistics.intervals import covariance, sums_by
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.feedback.statistics.strengths import Refusal, Strengths, comparison_refusal
from rlalign.feedback.statistics.win_rates import inverse_weights, ranked_pairs
from rlalign.types import FloatArray, IntArray

METHOD = "Plackett-Luce strengths; a tie is the mean over the orders that it leaves open"
SOURCE = "Plackett (1975), Applied Statistics 24:193-202; Luce (1959), Individual Choice Behavior"
_STEPS = 100
_LARGEST = 15.0


def fit_rankings(judgments: Judgments) -> Strengths | Refusal:
    """Return the strengths of policies from rankings, or the reason why there are none.

    The best completion is chosen from all, the next from the rest, with strengths π = exp(θ) and the order σ::

        P(σ) = Π_r π_σ(r) / Σ_{s ≥ r} π_σ(s)

    The log-likelihood of a ranking with ties is the mean over the orders that agree with it. For two completions, a tie
    is half a win and half a loss. The intervals are clustered by prompt, which has all rankings of its items.

    Sources: Plackett (1975); Luce (1959).

    Args:
        judgments: rankings; those that count are taken.
    """
    rankings = judgments.take(judgments.counted)
    pairs = ranked_pairs(rankings)
    different = pairs.take((pairs.first >= 0) & (pairs.first != pairs.second))
    refusal = comparison_refusal(different)
    if refusal is not None:
        return refusal
    # a policy that is ranked only against itself has no strength
    present = np.unique(different.policy)
    numbers = np.full(int(rankings.policy.max()) + 2, -1)  # the last one is that of -1, no completion
    numbers[present] = np.arange(len(present))
    policy = numbers[rankings.policy]
    compared = np.flatnonzero((policy >= 0).any(1))
    rankings, policy = rankings.take(compared), policy[compared]
    patterns, row = _patterns(policy, rankings.ranks)
    weights = inverse_weights(rankings)
    w = np.ones(len(rankings)) if weights is None else weights * len(weights) / weights.sum()
    total = sums_by(row, w, len(patterns))
    orders, share, pattern = _orders(patterns)
    strengths = np.zeros(len(present))
    for _ in range(_STEPS):
        value, gradient, information = _derivatives(orders, strengths, share * total[pattern])
        step = np.zeros_like(strengths)
        step[1:] = np.linalg.solve(information[1:, 1:], gradient[1:])
        decrement = float(gradient @ step)
        if not math.isfinite(decrement) or np.abs(strengths).max() > _LARGEST:
            break
        if decrement < 1e-12 * max(1.0, total.sum()):
            return _result(rankings, present, strengths, information, orders, share, pattern, row, w, value)
        scale = 1.0
        while scale > 1e-8 and _derivatives(orders, strengths + scale * step, share * total[pattern])[0] < value:
            scale /= 2
        strengths = strengths + scale * step
    return Refusal("not converged", "the fit of the rankings found no finite maximum")


def _result(
    rankings: Judgments, present: IntArray, strengths: FloatArray, information: FloatArray, orders: IntArray,
    share: FloatArray, pattern: IntArray, row: IntArray, weight: FloatArray, value: float,
) -> Strengths:  # fmt: skip
    p = len(present)
    scores = _gradients(orders, strengths)  # of each order, [O, P]
    of_pattern = np.stack([sums_by(pattern, share * scores[:, i], int(pattern.max()) + 1) for i in range(p)], 1)
    mapping = np.zeros((p, p))
    mapping[:, 1:] = (np.eye(p)[:, 1:] - 1.0 / p) @ np.linalg.inv(information[1:, 1:])
    influence = (weight[:, None] * of_pattern[row]) @ mapping.T
    return Strengths(
        policies=tuple(int(i) for i in present), values=strengths - strengths.mean(), tie=math.nan, terms=(),
        effects=np.zeros(0), covariance=covariance(influence, rankings.group, rankings.person), model="plackett-luce",
        method=METHOD, source=SOURCE, log_likelihood=value,
    )  # fmt: skip


def _patterns(policy: IntArray, ranks: IntArray) -> tuple[list[list[tuple[int, int]]], IntArray]:
    """Return the different lists of (rank, policy) of rankings, and the index of each ranking's list."""
    table = np.concatenate([policy, ranks], 1)
    unique, row = np.unique(table, axis=0, return_inverse=True)
    width = policy.shape[1]
    patterns = [
        sorted((int(r), int(p)) for p, r in zip(line[:width], line[width:], strict=True) if p >= 0) for line in unique
    ]
    return patterns, row.reshape(-1)


def _orders(patterns: list[list[tuple[int, int]]]) -> tuple[IntArray, FloatArray, IntArray]:
    """Return all orders of policies that agree with each pattern, best first, filled up with -1.

    Returns:
        orders [O, K]; the share 1 / (number of orders of the pattern), [O]; the index of the pattern, [O].
    """
    width = max(map(len, patterns))
    orders, shares, index = [], [], []
    for number, pattern in enumerate(patterns):
        tied = [[p for _, p in group] for _, group in itertools.groupby(pattern, key=lambda entry: entry[0])]
        choices = list(itertools.product(*(itertools.permutations(group) for group in tied)))
        for choice in choices:
            order = [p for group in choice for p in group]
            orders.append(order + [-1] * (width - len(order)))
            shares.append(1.0 / len(choices))
            index.append(number)
    return np.array(orders), np.array(shares), np.array(index)


def _stages(orders: IntArray, strengths: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the log-probability of each choice, [O, K], and the probabilities of all in that choice, [O, K, K]."""
    present = orders >= 0
    theta = np.where(present, strengths[orders], -np.inf)
    weight = np.exp(theta)
    rest = np.cumsum(weight[:, ::-1], 1)[:, ::-1]  # of the r-th place and all behind it
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(present, theta - np.log(rest), 0.0)
        chosen = weight[:, None, :] / rest[:, :, None]
    k = orders.shape[1]
    left = np.arange(k)[None, :, None] <= np.arange(k)[None, None, :]  # those still to be ranked
    return log_p, np.where(left & present[:, :, None] & present[:, None, :], chosen, 0.0)


def _gradients(orders: IntArray, strengths: FloatArray) -> FloatArray:
    """Return the gradient of the log-probability of each order by the strengths, [O, P]."""
    present = orders >= 0
    _, chosen = _stages(orders, strengths)
    slope = present - chosen.sum(1)  # by the strength in each place
    scores = np.zeros((len(orders), len(strengths)))
    for place in range(orders.shape[1]):
        rows = np.flatnonzero(present[:, place])
        np.add.at(scores, (rows, orders[rows, place]), slope[rows, place])
    return scores


def _derivatives(orders: IntArray, strengths: FloatArray, weight: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Return log-likelihood, gradient [P] and negative Hessian [P, P] of weighted orders."""
    log_p, chosen = _stages(orders, strengths)
    p = len(strengths)
    gradient = weight @ _gradients(orders, strengths)
    information = np.zeros((p, p))
    for stage in range(orders.shape[1]):
        shares = np.zeros((len(orders), p))
        for place in range(orders.shape[1]):
            rows = np.flatnonzero(orders[:, place] >= 0)
            np.add.at(shares, (rows, orders[rows, place]), chosen[rows, stage, place])
        information += np.diag(weight @ shares) - shares.T @ (weight[:, None] * shares)
    return float(weight @ log_p.sum(1)), gradient, information
