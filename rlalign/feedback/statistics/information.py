"""The information of further votes about the strengths of policies, and the disagreement of votes and of ensembles.

Votes follow Davidson's model (1970, J. American Statistical Association 65:317-328). With the difference δ of the
strengths of two policies and the score s = 1/2 for a win, -1/2 for a loss, 0 for a tie::

    P(win), P(loss), P(tie) ∝ exp(δ / 2), exp(-δ / 2), ν

The score is the derivative of the log-likelihood by δ, less its mean, so a vote has the Fisher information
κ(δ) = Var(s) about δ. With ν = 0 it is p (1 - p), that of Bradley and Terry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from rlalign.types import FloatArray, IntArray

_PRIOR_SD = 2.0
"""Standard deviation of the normal prior of a strength: few votes then give no infinite strength."""
_PRIOR_TIES = 1.0
"""Standard deviation of the normal prior of log ν around log 0.3."""


def outcome_probabilities(difference: FloatArray, ties: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the probabilities of a win, a loss and a tie at differences of strength; each has their shape."""
    half = np.clip(difference / 2, -300, 300)
    largest = np.abs(half)  # divided by, so that nothing overflows
    win = np.exp(half - largest)
    loss = np.exp(-half - largest)
    tie = ties * np.exp(-largest)
    total = win + loss + tie
    return win / total, loss / total, tie / total


def vote_information(difference: FloatArray, ties: float) -> FloatArray:
    """Return the Fisher information κ(δ) of a vote about the difference of two strengths, in the shape of δ."""
    win, loss, _ = outcome_probabilities(difference, ties)
    information: FloatArray = (win + loss) / 4 - ((win - loss) / 2) ** 2
    return information


def posterior_mode(wins: FloatArray, ties: FloatArray) -> tuple[FloatArray, float]:
    """Return strengths and ν at the mode of the posterior, with normal priors.

    The priors make the mode exist without votes and with a policy that won each vote. The estimates choose items; they
    are no results.

    Args:
        wins: wins[i, j] votes for policy i against j, [K, K].
        ties: ties of each pair of policies, at [i, j] with i < j, [K, K].

    Returns:
        Strengths of sum 0, [K], and ν.
    """
    k = len(wins)
    first, second = np.triu_indices(k, 1)
    won, lost, tied = wins[first, second], wins[second, first], np.triu(ties, 1)[first, second]
    total = won + lost + tied

    def negative(parameters: FloatArray) -> tuple[float, FloatArray]:
        theta, log_nu = parameters[:k], parameters[k]
        win, loss, tie = outcome_probabilities(theta[first] - theta[second], float(np.exp(log_nu)))
        tiny = 1e-300
        value = -(won @ np.log(win + tiny) + lost @ np.log(loss + tiny) + tied @ np.log(tie + tiny))
        value += 0.5 * (theta @ theta) / _PRIOR_SD**2 + 0.5 * ((log_nu - np.log(0.3)) / _PRIOR_TIES) ** 2
        slope = (won - lost) / 2 - total * (win - loss) / 2
        gradient = np.zeros(k + 1)
        np.add.at(gradient, first, -slope)
        np.add.at(gradient, second, slope)
        gradient[:k] += theta / _PRIOR_SD**2
        gradient[k] = -(tied - total * tie).sum() + (log_nu - np.log(0.3)) / _PRIOR_TIES**2
        return float(value), gradient

    start = np.append(np.zeros(k), np.log(0.3))
    found = optimize.minimize(negative, start, jac=True, method="L-BFGS-B", bounds=[(-30, 30)] * k + [(-8, 5)])
    centered: FloatArray = found.x[:k] - found.x[:k].mean()
    return centered, float(np.exp(found.x[k]))


def strength_covariance(strengths: FloatArray, ties: float, votes: FloatArray) -> FloatArray:
    """Return the covariance of strengths after some votes, with the normal prior of `posterior_mode`, [K, K].

    It is the inverse of Σ n_ij κ(δ_ij) d dᵀ + I / sd², with d = e_i - e_j. The number ν of ties is taken as known.

    Args:
        strengths: [K].
        ties: ν.
        votes: number of votes on each pair of policies, at [i, j] with i < j, [K, K].
    """
    k = len(strengths)
    upper = np.triu(votes, 1) * vote_information(strengths[:, None] - strengths[None, :], ties)
    weights = upper + upper.T
    information: FloatArray = np.diag(weights.sum(1)) - weights + np.eye(k) / _PRIOR_SD**2
    inverse: FloatArray = np.asarray(np.linalg.inv(information), np.float64)
    return inverse


def variance_reduction(covariance: FloatArray, information: FloatArray) -> FloatArray:
    """Return by how much a vote on each pair of policies is expected to reduce the variance of all differences.

    By the formula of Sherman and Morrison, a vote of information κ about d = e_i - e_j reduces the trace of C by
    κ |C d|² / (1 + κ dᵀ C d). With K policies, K times the trace of C is the sum of the variances of all differences,
    up to the prior (A-optimality; Fedorov 1972, Theory of Optimal Experiments).

    Args:
        covariance: C of the strengths, [K, K].
        information: κ of the votes on each pair, [K, K].

    Returns:
        At [i, j] with i < j; 0 elsewhere, [K, K].
    """
    diagonal = np.diag(covariance)
    spread = diagonal[:, None] + diagonal[None, :] - 2 * covariance  # dᵀ C d
    squared = covariance @ covariance
    own = np.diag(squared)
    reduction = information * (own[:, None] + own[None, :] - 2 * squared) / (1 + information * spread)
    upper: FloatArray = np.triu(reduction, 1)
    return upper


def allocate(
    strengths: FloatArray, ties: float, votes: FloatArray, available: IntArray, count: int, votes_per_item: int
) -> IntArray:
    """Return how many of the next items each pair of policies gets, so that the variances fall fastest.

    Items are allocated one after another, each to the pair of the largest `variance_reduction` of its votes.

    Args:
        strengths: [K].
        ties: ν.
        votes: votes so far on each pair, at [i, j] with i < j, [K, K].
        available: items of each pair that are left, at [i, j] with i < j, [K, K].
        count: number of items.
        votes_per_item: number of votes of an item.

    Returns:
        Number of items of each pair, at [i, j] with i < j, [K, K].
    """
    information = votes_per_item * vote_information(strengths[:, None] - strengths[None, :], ties)
    covariance = strength_covariance(strengths, ties, votes)
    left = np.triu(available, 1).copy()
    given = np.zeros_like(left)
    for _ in range(min(count, int(left.sum()))):
        reduction = np.where(left > 0, variance_reduction(covariance, information), -1.0)
        i, j = np.unravel_index(int(reduction.argmax()), reduction.shape)
        step = covariance[:, i] - covariance[:, j]  # C d
        scale = information[i, j] / (1 + information[i, j] * (step[i] - step[j]))
        covariance = covariance - scale * np.outer(step, step)
        given[i, j] += 1
        left[i, j] -= 1
    return given


def ensemble_disagreement(probabilities: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """Return the probability that two different members of an ensemble, drawn at random, disagree on the winner.

    Each member decides by a vote with its own probability. With M members::

        P = Σ_{m ≠ m'} [p_m (1 - p_m') + (1 - p_m) p_m'] / (M (M - 1))

    Args:
        probabilities: of each member that the first completion wins, [M, N], M > 1.

    Returns:
        [N].
    """
    p = np.asarray(probabilities, dtype=float)
    members = len(p)
    total = p.sum(0)
    # Σ_{m ≠ m'} p_m (1 - p_m') = (M - 1) Σ p - ((Σ p)² - Σ p²)
    ordered = (members - 1) * total - (total**2 - (p**2).sum(0))
    disagreement: FloatArray = 2 * ordered / (members * (members - 1))
    return disagreement
