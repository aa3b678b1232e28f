"""Weights of items that were selected in batches, and means with them.

In each batch, an item that no earlier batch has selected is selected with a known probability, which may depend on all
earlier votes. Let S_b be the items of the batches before b, y_i the mean score of item i, and N the number of items.
Then each batch gives an unbiased estimate of the total of all items (Des Raj 1956, J. American Statistical Association
51:269-284)::

    T_b = Σ_{i in S_b} y_i + Σ_{i in batch b} y_i / π_i

Their mean with weights c_b is a weighted sum of the items, in which item i of batch b has the weight::

    w_i = c_b / π_i + Σ_{b' > b} c_b',    c_b ∝ 1 / (N_b - n_b) - 1 / N_b

with N_b items to choose from and n_b selected ones. These c_b are those of the levelled unbiased risk estimator (LURE;
Farquhar, Gal and Rainforth 2021, arXiv 2101.11665, whose batches have one item). If all items of the pool had the same
probability, all weights are equal; if all items are selected, each weight is 1. A mean divides by the sum of the
weights (Hájek 1971), so it has a bias of order 1 / n and a smaller variance.

The weights are for means of items. They do not repair item means: an item must not get another vote *because* its
first votes disagree. With a win probability of 0.8 and a third vote after a disagreement, the expected mean of an item
is 0.8 · 0.8 + 2 · 0.8 · 0.2 · (1 + 0.8) / 3 = 0.832, not 0.8. Here each selected item gets the same number of votes.
"""

from __future__ import annotations

import math

import numpy as np

from rlalign.errors import UserError
from rlalign.types import BoolArray, FloatArray, IntArray


def batch_weights(batch: IntArray, probability: FloatArray, judged: BoolArray) -> FloatArray:
    """Return the weight of each item: see the module for the equation. They have the mean 1 over the judged items.

    In a batch whose items are not all judged, the judged ones stand for all of them: a batch gives its items in a
    random order.

    Args:
        batch: number of the batch that selected an item, in the order of time; -1: none has, [N].
        probability: with which the batch selected the item, [N].
        judged: the item has votes, [N].

    Returns:
        [N]; 0 for items that are not judged.

    Raises:
        UserError: a probability is not in (0, 1], or a judged item is in no batch.
    """
    selected = batch >= 0
    if (judged & ~selected).any():
        item = int(np.flatnonzero(judged & ~selected)[0])
        raise UserError(f"expected judged items to be in a batch, got item {item} in none; use selection_weights")
    wrong = selected & ~((probability > 0) & (probability <= 1))
    if wrong.any():
        value = float(probability[np.flatnonzero(wrong)[0]])
        raise UserError(f"expected probabilities above 0 and at most 1, got {value}; use those of the batches")
    weights = np.zeros(len(batch))
    if not judged.any():
        return weights
    numbers = [int(b) for b in np.unique(batch[judged])]
    pool = len(batch)
    coefficients: list[float] = []
    for number in numbers:
        size = int((batch == number).sum())
        # the last batch has selected all: its total is exact, and the others have no weight beside it
        left = pool - size
        coefficients.append(math.inf if left == 0 else 1 / left - 1 / pool)
        pool = left
    c = np.array(coefficients)
    c = np.isinf(c).astype(float) if np.isinf(c).any() else c / c.sum()
    later = np.concatenate([np.cumsum(c[::-1])[::-1][1:], [0.0]])
    for number, own, rest in zip(numbers, c, later, strict=True):
        members = batch == number
        share = (members & judged).sum() / members.sum()
        weights[members & judged] = (own / probability[members & judged] + rest) / share
    # rounded, so that weights that are equal in exact numbers are equal
    scaled: FloatArray = np.round(weights * (judged.sum() / weights.sum()), 12)
    return scaled


def stratified_weights(
    batch: IntArray, probability: FloatArray, judged: BoolArray, stratum: IntArray, uniform: BoolArray
) -> FloatArray:
    """Return weights as `batch_weights` does, for each stratum apart. They have the mean 1 within each stratum.

    The strata are the pairs of policies. A batch whose scores depend on the stratum alone, as those of a fit do,
    selects items of a stratum with equal probabilities. Given how many it selected, they are a simple random sample of
    the stratum, so that no weights within it are needed: they would add variance and remove no bias. In such a batch,
    n of the N items of a stratum have the probability n / N.

    Args:
        batch: as in `batch_weights`, [N].
        probability: as in `batch_weights`, [N].
        judged: as in `batch_weights`, [N].
        stratum: number of the stratum of each item, [N].
        uniform: the batch of the item selected within strata with equal probabilities, [N].

    Returns:
        [N]; 0 for items that are not judged.
    """
    weights = np.zeros(len(batch))
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        own, chance = batch[members], probability[members].copy()
        left = len(members)
        for b in np.unique(own[own >= 0]):
            of_batch = own == b
            if uniform[members][of_batch].all():
                chance[of_batch] = of_batch.sum() / left
            left -= int(of_batch.sum())
        weights[members] = batch_weights(own, chance, judged[members])
    return weights


def random_part(place: FloatArray, at_random: BoolArray) -> BoolArray:
    """Return the items of the random part, [N]: those up to the last place that was selected at random.

    They are a simple random sample of all items: a score that selected one of them earlier does not matter.

    Args:
        place: of each item in the random order, [N].
        at_random: a batch selected the item at random, [N].
    """
    if not at_random.any():
        return np.zeros(len(place), bool)
    part: BoolArray = place <= place[at_random].max()
    return part


def weighted_mean(scores: FloatArray, weights: FloatArray, clusters: IntArray) -> tuple[float, float]:
    """Return Hájek's mean Σ w y / Σ w and its standard error with clusters.

    With G clusters and residuals e = y - mean::

        se² = G / (G - 1) · Σ_g (Σ_{i in g} w_i e_i)² / (Σ w)²

    The error is that of sampling with replacement, so it is too large if most items are selected.

    Sources: Hájek (1971), in Godambe and Sprott (eds.), Foundations of Statistical Inference, p. 236; Särndal, Swensson
    and Wretman (1992), Model Assisted Survey Sampling, section 5.7.

    Args:
        scores: [N].
        weights: not negative, [N].
        clusters: number of the cluster, such as the prompt, [N].

    Returns:
        Mean and standard error; NaN without weights, and an error of NaN with one cluster.
    """
    total = float(weights.sum())
    if total <= 0:
        return math.nan, math.nan
    mean = float(weights @ scores) / total
    used = weights > 0
    _, codes = np.unique(clusters[used], return_inverse=True)
    sums = np.bincount(codes, weights[used] * (scores[used] - mean))
    g = len(sums)
    if g < 2:
        return mean, math.nan
    return mean, math.sqrt(g / (g - 1) * float(sums @ sums)) / total


def effective_number(weights: FloatArray) -> float:
    """Return the number of equally weighted items with the same variance of the mean: (Σ w)² / Σ w².

    Source: Kish (1965), Survey Sampling, section 11.7.
    """
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
