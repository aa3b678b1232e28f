"""Best-of-n: draw n completions, keep the one with the highest reward. Its value and its KL, as pure functions.

best_of_n_weights     weights of N samples in the unbiased estimate of a metric of the kept completion
kl_upper_bound        log n - (n - 1)/n, which holds for every policy and reward
exact_kl              the KL of best-of-n to its base policy, when all probabilities are known
exact_distribution    the distribution of the kept completion, when all probabilities are known
"""

from __future__ import annotations

import math

import numpy as np

from rlalign.errors import UserError
from rlalign.types import FloatArray, IntArray

SAMPLES_PER_N = 4
"""Least number of samples per prompt, in multiples of n: with N = n the estimate uses one sample of the maximum."""


def best_of_n_weights(rewards: FloatArray, n: int) -> FloatArray:
    """Return the weight of each sample in the unbiased estimate of a metric of the best of n.

    Let N samples have the rewards r in ascending order. Among all C(N, n) subsets of size n, the sample of rank i is
    the best of C(i - 1, n - 1). A metric x of the kept completion has the estimate (Nakano et al. 2021, 2112.09332,
    appendix I; used in Gao et al. 2022, 2210.10760)::

        Σ_i  C(i - 1, n - 1) / C(N, n) · x_i

    It is the mean over all subsets, so its expectation is that of one subset: it is unbiased for each n <= N. Samples
    of equal reward, which have the ranks a to b, share the weight of their block::

        (C(b, n) - C(a - 1, n)) / C(N, n) / (b - a + 1)

    This is the mean over all subsets when the best of a subset is chosen uniformly among its samples of highest reward.

    Args:
        rewards: float [N] of the reward that selects; NaN for a sample that could not be scored, which is left out.
        n: number of completions among which one is kept; at least 1.

    Returns:
        Weights [N] that sum to 1; 0 for a sample left out. All are NaN if fewer than n samples could be scored.

    Raises:
        UserError: n is below 1.

    Example:
        >>> best_of_n_weights(np.array([0.1, 0.9, 0.5]), n=2).round(3).tolist()  # the subsets {1,2}, {1,3}, {2,3}
        [0.0, 0.667, 0.333]
    """
    if n < 1:
        raise UserError(f"n: expected at least 1 completion to keep one of, got {n}; use 1 or more")
    valid = np.isfinite(rewards)
    count = int(valid.sum())
    if count < n:
        return np.full(len(rewards), math.nan)
    # `below[k]` is the share of subsets that lie within the k lowest samples; integers divide without overflow
    subsets = math.comb(count, n)
    below = np.array([math.comb(k, n) / subsets for k in range(count + 1)])
    _, blocks, sizes = np.unique(rewards[valid], return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)  # rank of the highest sample of each block
    shares = (below[last] - below[last - sizes]) / sizes
    weights = np.zeros(len(rewards))
    weights[valid] = shares[blocks]
    return weights


def best_of_n(rewards: FloatArray, metric: FloatArray, n: int) -> FloatArray:
    """Return the unbiased estimate of a metric of the best of n, per prompt (see `best_of_n_weights`).

    A sample whose metric is not finite is left out, also if its reward is finite.

    Args:
        rewards: float [P, N] of the reward that selects; NaN for a sample that could not be scored.
        metric: float [P, N] of the same samples: the reward itself, or another one, such as the true objective.
        n: number of completions among which one is kept.

    Returns:
        float [P]; NaN for a prompt with fewer than n scored samples.
    """
    rows = []
    for r, x in zip(rewards, metric, strict=True):
        scored = np.isfinite(x)
        rows.append(best_of_n_weights(np.where(scored, r, math.nan), n) @ np.where(scored, x, 0.0))
    return np.array(rows)


def powers_up_to(n: int) -> list[int]:
    """Return 1, 2, 4, ... and n.

    Example:
        >>> powers_up_to(12)
        [1, 2, 4, 8, 12]
    """
    return sorted({1 << k for k in range(n.bit_length())} | {n})


def kl_upper_bound(n: int) -> float:
    """Return log n - (n - 1)/n, an upper bound of the KL of best-of-n to its base policy, in nats.

    It is the KL of the largest of n draws of a continuous variable. It holds for each policy and reward, and is far
    above the KL if completions of equal reward are probable (Beirami et al. 2024, 2401.01879): the KL
    itself is at most -log of the probability that one draw has the highest reward.

    Args:
        n: number of completions among which one is kept; at least 1.

    Example:
        >>> [round(kl_upper_bound(n), 3) for n in (1, 2, 16)]
        [0.0, 0.193, 1.835]
    """
    return math.log(n) - (n - 1) / n


def exact_distribution(probabilities: FloatArray, rewards: FloatArray, n: int) -> FloatArray:
    """Return the probability of each completion under best-of-n, with ties broken uniformly among the draws.

    For a completion y, let F be the probability that a draw has at most the reward of y, and F⁻ that it has less. Its
    reward is the highest of n draws with probability Fⁿ - F⁻ⁿ. Within the completions of that reward, the kept one has
    the distribution of the base policy::

        P_n(y) = P(y) · (Fⁿ - F⁻ⁿ) / (F - F⁻)

    Args:
        probabilities: float [M] of all completions; they sum to 1.
        rewards: float [M], finite.
        n: number of draws.
    """
    gain, classes, mass = _classes(probabilities, rewards, n)
    ratio = np.divide(gain, mass, out=np.zeros_like(mass), where=mass > 0)
    kept: FloatArray = probabilities * ratio[classes]
    return kept


def exact_kl(probabilities: FloatArray, rewards: FloatArray, n: int) -> float:
    """Return KL(best-of-n ‖ base policy) = Σ_y P_n(y) log(P_n(y) / P(y)), in nats (see `exact_distribution`).

    P_n/P is the same for all completions of one reward, so the sum runs over the different rewards.

    Args:
        probabilities: float [M] of all completions; they sum to 1.
        rewards: float [M], finite.
        n: number of draws.

    Example:
        >>> exact_kl(np.array([0.5, 0.5]), np.array([0.0, 1.0]), n=2) < kl_upper_bound(2)
        True
    """
    gain, _, mass = _classes(probabilities, rewards, n)
    drawn = gain > 0
    return float((gain[drawn] * np.log(gain[drawn] / mass[drawn])).sum())


def _classes(probabilities: FloatArray, rewards: FloatArray, n: int) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return per different reward its probability under best-of-n, the class of each completion, and its base mass."""
    _, classes = np.unique(rewards, return_inverse=True)
    mass: FloatArray = np.bincount(classes, probabilities).astype(np.float64)
    upper = np.minimum(np.cumsum(mass), 1.0)
    upper[-1] = 1.0  # rounding of the sum would reappear n-fold
    lower = np.concatenate([[0.0], upper[:-1]])
    return upper**n - lower**n, classes, mass
