"""The random design of a batch of items: who is selected, and with which probability.

A part of each batch is selected at random, and the rest with probabilities that follow scores. Each probability is
known, so that weights undo the selection (`weighting`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlalign.types import BoolArray, FloatArray, IntArray

LEAST_RANDOM_SHARE = 0.3
"""Smallest share of items that are selected at random."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Selected items.

    Attributes:
        items: indices of the items, in the random order in which they are to be given, [B].
        probability: with which each item came into the batch, given the batches before, [B].
        random: the item was selected at random, not by its score, [B].
    """

    items: IntArray
    probability: FloatArray
    random: BoolArray


def inclusion_probabilities(scores: FloatArray, count: int) -> FloatArray:
    """Return probabilities of inclusion that are proportional to scores, at most 1, and have the sum `count`.

    Items whose probability would be above 1 are included for certain, and the others share the rest. If fewer than
    `count` scores are positive, the rest is shared by the others equally.

    Args:
        scores: not negative, [N].
        count: number of items to select, at most N.
    """
    n = len(scores)
    probability = np.zeros(n)
    left = np.ones(n, bool)
    remaining = float(min(count, n))
    while remaining > 0 and left.any():
        weights = np.where(left, scores, 0.0)
        if weights.sum() <= 0:
            weights = left.astype(float)
        share = remaining * weights / weights.sum()
        certain = left & (share >= 1)
        if not certain.any():
            total: FloatArray = probability + share
            return total
        probability[certain] = 1.0
        left &= ~certain
        remaining -= float(certain.sum())
    return probability


def systematic_sample(probability: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return indices that are included with given probabilities; their number is the sum, rounded up or down.

    The items are put in a random order, and their probabilities into a row on a line. Each item whose part of the line
    contains one of the points u, u + 1, u + 2, ... is selected, with u uniform on [0, 1).

    Source: Madow (1949), Annals of Mathematical Statistics 20:333-354.

    Args:
        probability: at most 1, [N].
        rng: random numbers.
    """
    order = rng.permutation(len(probability))
    ends = np.cumsum(probability[order])
    # rounding errors must not move the end of the line over a point
    ends = np.where(np.abs(ends - np.round(ends)) < 1e-9, np.round(ends), ends)
    starts = np.concatenate([[0.0], ends[:-1]])
    u = rng.random()
    hit = np.ceil(ends - u) > np.ceil(starts - u)
    return np.sort(order[hit])


def draw_batch(
    place: FloatArray, scores: FloatArray, size: int, random_share: float, rng: np.random.Generator, *, least: int = 0
) -> Batch:
    """Return a batch of the items that no batch has selected yet.

    First, `(1 - random_share) · size` items are selected with probabilities π' that are proportional to their scores.
    Then the next of the others in a stored random order are selected. With n_a and n_r items of the two kinds and N
    items to choose from, an item comes into the batch with the probability::

        π = π' + (1 - π') · n_r / (N - n_a)

    The items up to a place in the random order are thus a simple random sample of all items, with those among them that
    were selected by their scores.

    Args:
        place: of each item in the random order, independent of the items' content, [N].
        scores: not negative, [N].
        size: number of items; all N if there are not more.
        random_share: share of the batch that is selected at random, rounded up.
        rng: random numbers.
        least: smallest number of items selected at random: items that were given in the random order already.
    """
    n = len(place)
    number = max(int(np.ceil(random_share * size - 1e-9)), least)
    chosen_by_score = size - int(np.ceil(random_share * size - 1e-9))
    if n <= number + chosen_by_score:
        return Batch(rng.permutation(n), np.ones(n), np.ones(n, bool))
    pi = inclusion_probabilities(scores, chosen_by_score)
    active = systematic_sample(pi, rng)
    others = np.setdiff1d(np.arange(n), active)
    at_random = others[np.argsort(place[others], kind="stable")[:number]]
    items = np.concatenate([active, at_random])
    probability = pi + (1 - pi) * number / (n - len(active))
    is_random = np.concatenate([np.zeros(len(active), bool), np.ones(len(at_random), bool)])
    order = rng.permutation(len(items))
    return Batch(items[order], probability[items[order]], is_random[order])
