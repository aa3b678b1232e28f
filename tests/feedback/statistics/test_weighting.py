"""Weights are unbiased over all random draws, and equal hand computations and the published estimator."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.feedback.statistics.design import Batch, draw_batch, inclusion_probabilities, systematic_sample
from rlalign.feedback.statistics.weighting import (
    batch_weights,
    effective_number,
    random_part,
    stratified_weights,
    weighted_mean,
)
from rlalign.types import FloatArray

# ---- the design ----


def test_probabilities_follow_the_scores_up_to_one() -> None:
    assert inclusion_probabilities(np.array([1.0, 2.0, 3.0]), 1) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    # 10 would be included 2 * 10 / 13 times: it is included for certain, and the others share one place
    assert inclusion_probabilities(np.array([10.0, 1.0, 2.0]), 2) == pytest.approx([1, 1 / 3, 2 / 3])
    assert inclusion_probabilities(np.array([0.0, 0.0, 5.0]), 2) == pytest.approx([0.5, 0.5, 1])
    assert inclusion_probabilities(np.zeros(4), 1) == pytest.approx([0.25] * 4)
    assert inclusion_probabilities(np.ones(2), 5) == pytest.approx([1, 1])


def test_a_systematic_sample_has_its_probabilities_and_a_fixed_size() -> None:
    """20,000 draws of 4 of 9 items: each share is within 4.5 standard errors; false alarm 6e-5 in all."""
    pi = inclusion_probabilities(np.arange(1.0, 10.0), 4)
    rng = np.random.default_rng(0)
    counts = np.zeros(9)
    for _ in range(20_000):
        sample = systematic_sample(pi, rng)
        assert len(sample) == 4
        counts[sample] += 1
    z = (counts / 20_000 - pi) / np.sqrt(np.maximum(pi * (1 - pi), 1e-12) / 20_000)
    assert np.abs(z).max() < 4.5


def test_a_batch_has_the_stated_probabilities_and_its_random_share() -> None:
    """6,000 batches of 10 of 30 items, 3 at random; places are drawn again each time. False alarm 2e-4 in all."""
    rng = np.random.default_rng(1)
    scores = np.linspace(0, 3, 30)
    counts = np.zeros(30)
    stated = np.full(30, np.nan)
    for _ in range(6_000):
        batch = draw_batch(rng.random(30), scores, 10, 0.3, rng)
        assert (len(batch.items), int(batch.random.sum())) == (10, 3)
        assert len(set(batch.items.tolist())) == 10
        counts[batch.items] += 1
        stated[batch.items] = batch.probability
    z = (counts / 6_000 - stated) / np.sqrt(stated * (1 - stated) / 6_000)
    assert np.abs(z).max() < 4.5


def test_neighbors_can_be_selected_together_and_the_order_tells_nothing() -> None:
    """300 batches: the first item is a random one in 30 % of them; false alarm below 1e-4."""
    rng = np.random.default_rng(2)
    assert {tuple(systematic_sample(np.full(4, 0.5), rng).tolist()) for _ in range(300)} == set(
        itertools.combinations(range(4), 2)
    )
    first = sum(draw_batch(rng.random(30), np.ones(30), 10, 0.3, rng).random[0] for _ in range(300))
    assert 60 < first < 121


def test_the_random_items_are_the_next_ones_of_the_random_order() -> None:
    place = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.6, 0.95, 0.05, 0.4, 0.99])
    scores = np.zeros(12)
    scores[9] = 1.0  # the first of the order is selected by its score
    batch = draw_batch(place, scores, 3, 0.6, np.random.default_rng(0))
    assert set(batch.items[batch.random].tolist()) == {1, 5}
    assert batch.items[~batch.random].tolist() == [9]
    assert random_part(place, np.isin(np.arange(12), [1, 5])).nonzero()[0].tolist() == [1, 5, 9]


def test_items_that_were_given_before_are_among_the_random_ones() -> None:
    place = np.arange(40) / 40
    batch = draw_batch(place, np.zeros(40), 10, 0.3, np.random.default_rng(0), least=8)
    assert int(batch.random.sum()) == 8
    assert len(batch.items) == 15


def test_the_last_batch_has_all_items() -> None:
    batch = draw_batch(np.arange(4) / 4, np.arange(4.0), 5, 0.3, np.random.default_rng(0))
    assert sorted(batch.items.tolist()) == [0, 1, 2, 3]
    assert batch.probability.tolist() == [1] * 4
    assert batch.random.all()


# ---- the weights ----


def test_weights_of_two_batches_equal_a_hand_computation() -> None:
    # 6 items; the first batch selects 2 of 6, the second 1 of 4
    batch = np.array([0, 0, 1, -1, -1, -1])
    probability = np.array([0.5, 0.25, 0.4, 1, 1, 1])
    c = np.array([1 / 4 - 1 / 6, 1 / 3 - 1 / 4])
    c /= c.sum()
    raw = np.array([c[0] / 0.5 + c[1], c[0] / 0.25 + c[1], c[1] / 0.4])
    weights = batch_weights(batch, probability, batch >= 0)
    assert weights[:3] == pytest.approx(raw * 3 / raw.sum())
    assert weights[3:].tolist() == [0, 0, 0]


def test_equal_probabilities_give_equal_weights() -> None:
    sizes, n = [5, 3, 8, 2], 30
    batch = np.full(n, -1)
    probability = np.ones(n)
    start = 0
    for number, size in enumerate(sizes):
        batch[start : start + size] = number
        probability[start : start + size] = size / (n - start)
        start += size
    weights = batch_weights(batch, probability, batch >= 0)
    assert weights[:start] == pytest.approx(np.ones(start))


def test_if_all_items_are_selected_each_counts_once() -> None:
    batch = np.array([0, 0, 1, 1, 2])
    weights = batch_weights(batch, np.array([0.9, 0.1, 0.8, 0.5, 1.0]), np.ones(5, bool))
    assert weights == pytest.approx(np.ones(5))


def test_batches_of_one_item_give_the_levelled_unbiased_risk_estimator() -> None:
    """v_m of Farquhar, Gal and Rainforth (2021), equation 4, with M of N items and the probabilities q_m."""
    n, q = 9, [0.3, 0.05, 0.2, 0.4]
    m_total = len(q)
    v = [1 + (n - m_total) / (n - m) * (1 / ((n - m + 1) * q_m) - 1) for m, q_m in enumerate(q, 1)]
    batch = np.full(n, -1)
    probability = np.ones(n)
    batch[:m_total], probability[:m_total] = range(m_total), q
    weights = batch_weights(batch, probability, batch >= 0)[:m_total]
    assert weights == pytest.approx(np.array(v) * m_total / sum(v))


def _histories(scores_of: object, n: int, rounds: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """Return all sequences of single draws with their probabilities; the scores depend on what was drawn before."""
    histories: list[tuple[float, list[tuple[int, float]]]] = [(1.0, [])]
    for _ in range(rounds):
        longer = []
        for chance, drawn in histories:
            left = [i for i in range(n) if i not in {j for j, _ in drawn}]
            q = np.array([scores_of([j for j, _ in drawn], i) for i in left])  # type: ignore[operator]  # a function
            q = 0.3 / len(left) + 0.7 * q / q.sum()
            longer += [(chance * q_i, [*drawn, (i, q_i)]) for i, q_i in zip(left, q, strict=True)]
        histories = longer
    return histories


def test_the_total_is_unbiased_over_all_adaptive_histories() -> None:
    """Enumeration: 5 items, 3 rounds of one item; scores prefer items like those that were drawn before."""
    y = np.array([0.0, 1.0, 0.5, 1.0, 0.2])
    histories = _histories(lambda drawn, i: 0.1 + sum(y[j] for j in drawn) * y[i], 5, 3)
    assert sum(chance for chance, _ in histories) == pytest.approx(1)
    expected = 0.0
    naive = 0.0
    for chance, drawn in histories:
        items = [i for i, _ in drawn]
        c = np.array([1 / (5 - m) - 1 / (6 - m) for m in range(1, 4)])
        c /= c.sum()
        raw = np.array([c[m] / drawn[m][1] + c[m + 1 :].sum() for m in range(3)])
        batch = np.full(5, -1)
        probability = np.ones(5)
        batch[items], probability[items] = range(3), [q for _, q in drawn]
        # the function gives the same weights up to their sum
        assert batch_weights(batch, probability, batch >= 0)[items] == pytest.approx(raw * 3 / raw.sum())
        expected += chance * float(raw @ y[items])
        naive += chance * float(y[items].mean()) * 5
    assert expected == pytest.approx(y.sum())
    assert abs(naive - y.sum()) > 0.2


def test_judged_items_stand_for_their_batch() -> None:
    batch = np.array([0, 0, 0, 0, 1, 1, -1, -1])
    probability = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1])
    whole = batch_weights(batch, probability, batch >= 0)
    part = batch_weights(batch, probability, np.array([1, 1, 0, 0, 1, 1, 0, 0], bool))
    assert part[:2].sum() / part[4:6].sum() == pytest.approx(whole[:4].sum() / whole[4:6].sum())


def test_no_weights_are_needed_within_strata_that_a_batch_selects_uniformly() -> None:
    batch = np.array([0, 0, 0, 1, -1, 0, 1, 1, -1, -1])
    stratum = np.array([5, 5, 5, 5, 5, 7, 7, 7, 7, 7])
    probability = np.array([0.6, 0.6, 0.6, 0.5, 1, 0.2, 0.3, 0.3, 1, 1])
    judged = batch >= 0
    weights = stratified_weights(batch, probability, judged, stratum, np.ones(10, bool))
    assert weights == pytest.approx(judged.astype(float))
    # a batch with scores per item has its own probabilities, and each stratum is weighted apart
    weights = stratified_weights(batch, probability, judged, stratum, batch == 0)
    assert weights[5:8].mean() == pytest.approx(1)
    alone = batch_weights(batch[5:], np.array([0.2, 0.3, 0.3, 1, 1]), judged[5:])
    assert weights[5:] == pytest.approx(alone)


def test_no_votes_give_no_weights() -> None:
    assert batch_weights(np.array([0, -1]), np.array([0.5, 1.0]), np.zeros(2, bool)).tolist() == [0, 0]


def test_wrong_probabilities_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected probabilities above 0 and at most 1, got 0\.0"):
        batch_weights(np.array([0]), np.array([0.0]), np.array([True]))
    with pytest.raises(UserError, match="got item 1 in none"):
        batch_weights(np.array([0, -1]), np.ones(2), np.array([True, True]))


def test_a_weighted_mean_with_equal_weights_is_the_clustered_mean() -> None:
    scores = np.array([1.0, 0.0, 1.0, 1.0, 0.5])
    clusters = np.array([7, 7, 8, 9, 9])
    mean, error = weighted_mean(scores, np.ones(5), clusters)
    sums = [1 + 0 - 2 * 0.7, 1 - 0.7, 1.5 - 1.4]
    assert mean == pytest.approx(0.7)
    assert error == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 5)
    assert np.isnan(weighted_mean(scores, np.zeros(5), clusters)).all()
    assert effective_number(np.array([2.0, 2.0, 0.0])) == 2
    assert effective_number(np.array([3.0, 1.0])) == 1.6


def simulate(seed: int, y: FloatArray, size: int, rounds: int) -> tuple[float, float, float, bool]:
    """Return the naive, the weighted and the random part's mean of a study that selects small scores, and coverage."""
    rng = np.random.default_rng(seed)
    n = len(y)
    place = rng.random(n)
    batch, probability, at_random = np.full(n, -1), np.ones(n), np.zeros(n, bool)
    for number in range(rounds):
        pool = np.flatnonzero(batch < 0)
        drawn: Batch = draw_batch(place[pool], (1.05 - y[pool]) ** 2, size, 0.3, rng)
        chosen = pool[drawn.items]
        batch[chosen], probability[chosen], at_random[chosen] = number, drawn.probability, drawn.random
    judged = batch >= 0
    mean, error = weighted_mean(y, batch_weights(batch, probability, judged), np.arange(n))
    part = random_part(place, at_random)
    return float(y[judged].mean()), mean, float(y[part].mean()), abs(mean - y.mean()) < 1.96 * error


def test_weights_and_the_random_part_remove_the_bias_of_the_selection() -> None:
    """300 studies: 4 standard errors, false alarm 1e-4 in all; the naive mean is off by more than 20 of them."""
    y = np.random.default_rng(0).beta(1.5, 1.0, 400)
    results = np.array([simulate(seed, y, 20, 6) for seed in range(300)])
    z = (results[:, :3].mean(0) - y.mean()) / (results[:, :3].std(0) / math.sqrt(300))
    assert abs(z[1]) < 4
    assert abs(z[2]) < 4
    assert z[0] < -20
    assert results[:, 3].mean() > 0.9


def test_all_orders_of_a_small_random_part_are_unbiased() -> None:
    """Enumeration over the 120 orders of 5 items: the part up to the second random place has the mean of all items.

    One item is selected by its score first. The part ends with an item that was not, which biases its mean by at most
    the share of the part that this item has; the mean over all orders is within that bound.
    """
    y = np.array([0.0, 1.0, 1.0, 0.5, 0.0])
    means = []
    for order in itertools.permutations(range(5)):
        place = np.argsort(order) / 5
        others = [i for i in order if i != 0]
        means.append(y[random_part(place, np.isin(np.arange(5), others[:2]))].mean())
    assert np.mean(means) == pytest.approx(y.mean(), abs=0.06)
