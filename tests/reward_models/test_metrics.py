"""Metrics of reward models, against hand computations and scikit-learn."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from rlalign.reward_models.data import Pair, Rating
from rlalign.reward_models.metrics import (
    accuracy_of,
    calibration_slope,
    margin_bins,
    mean_of,
    pair_metrics,
    rating_metrics,
    reliability,
)
from rlalign.rewards.reward_model.rendering import Sample


def pair(chosen="a", rejected="b", **settings):
    return Pair(Sample("p", chosen), Sample("p", rejected), **settings)


def draw(number, seed, scale=1.0):
    """Return differences of scores whose sigmoid is the probability of the chosen side, and groups of 4 pairs."""
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=number)
    flipped = rng.random(number) > 1 / (1 + np.exp(-difference))
    return scale * np.where(flipped, -difference, difference), np.arange(number) // 4


def test_equal_scores_are_wrong():
    metrics = pair_metrics(
        [pair(group=i) for i in range(4)], np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 3.0, 1.0])
    )
    assert metrics.accuracy.value == 0.25
    assert metrics.ties == 0.5


def test_brier_and_log_loss_by_hand():
    metrics = pair_metrics([pair(group=0), pair(group=1)], np.array([math.log(3), 0.0]), np.array([0.0, math.log(4)]))
    assert metrics.brier.value == pytest.approx(((1 / 4) ** 2 + (4 / 5) ** 2) / 2)
    assert metrics.log_loss.value == pytest.approx(-(math.log(3 / 4) + math.log(1 / 5)) / 2)


def test_interval_is_clustered_by_group():
    """200 pairs of 4 groups that agree within: the interval is that of 4 numbers, much wider than of 200."""
    right = np.repeat([1.0, 1.0, 0.0, 1.0], 50)
    clustered = mean_of(right, np.repeat(np.arange(4), 50), "x")
    single = mean_of(right, np.arange(200), "x")
    from scipy import stats

    se = np.array([1, 1, 0, 1]).std(ddof=1) / 2
    assert clustered.high - clustered.value == pytest.approx(stats.t.ppf(0.975, 3) * se)
    assert clustered.high - clustered.low > 5 * (single.high - single.low)
    wide, narrow = (accuracy_of(right, g) for g in (np.repeat(np.arange(4), 50), np.arange(200)))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_slope_is_that_of_scikit_learn(scale):
    from sklearn.linear_model import LogisticRegression

    difference, group = draw(400, 1, scale)
    x = np.concatenate([difference, -difference])[:, None]
    y = np.repeat([1, 0], len(difference))
    oracle = LogisticRegression(fit_intercept=False, C=1e12, tol=1e-10, max_iter=1000).fit(x, y).coef_[0, 0]
    estimate = calibration_slope(difference, group)
    assert estimate.value == pytest.approx(oracle, rel=1e-4)
    assert estimate.low < 1 / scale < estimate.high  # seed 1 is one of the 95 % whose interval covers the truth


def test_slope_of_perfect_scores_is_not_finite():
    assert math.isnan(calibration_slope(np.ones(5), np.arange(5)).value)


def test_reliability_bins_have_equal_numbers_and_no_direction():
    difference, _ = draw(1000, 2)
    bins = reliability(difference, 5)
    assert [b.pairs for b in bins] == [200] * 5
    assert sum(b.accuracy * b.pairs for b in bins) == pytest.approx((difference > 0).sum())
    assert all(a.confidence < b.confidence for a, b in itertools.pairwise(bins))
    # calibrated scores: each of 5 bins is in its 95 % interval for this seed; 0.77 of all seeds
    assert all(b.low <= b.confidence <= b.high for b in bins)
    assert reliability(np.zeros(3)) == []


def test_length_and_position():
    pairs = [
        pair("a b c", "a", group=0, chosen_first=True), pair("a", "a b", group=1, chosen_first=False),
        pair("a b", "a b", group=2, chosen_first=True), pair("a b", "a", group=3, chosen_first=False),
    ]  # fmt: skip
    metrics = pair_metrics(pairs, np.array([2.0, -1.0, 0.5, 1.0]), np.zeros(4))
    lengths, differences = np.array([2, -1, 0, 1]), np.array([2, -1, 0.5, 1])
    expected = lengths @ differences / np.sqrt((lengths @ lengths) * (differences @ differences))
    assert metrics.length_correlation == pytest.approx(expected)
    assert metrics.longer_wins == (1 + 0 + 0.5 + 1) / 4
    assert metrics.position_gap == 1.0 - 0.5
    assert metrics.position_correlation == pytest.approx(np.corrcoef(differences, [1, -1, 1, -1])[0, 1])
    unknown = pair_metrics([pair(group=i) for i in range(3)], np.ones(3), np.zeros(3))
    assert math.isnan(unknown.position_gap)


def test_parts_by_annotator_margin_and_subset():
    pairs = [pair(group=i, annotator="xy"[i % 2], margin=1.0, columns={"subset": "ab"[i // 2]}) for i in range(4)]
    metrics = pair_metrics(pairs, np.array([1.0, -1, 1, -1]), np.zeros(4))
    assert {name: e.value for name, e in metrics.by_annotator.items()} == {"x": 1.0, "y": 0.0}
    assert {name: e.value for name, e in metrics.by_subset.items()} == {"a": 0.5, "b": 0.5}
    assert {name: e.votes for name, e in metrics.by_margin.items()} == {"1": 4}
    json.dumps(metrics.to_json(), allow_nan=False)


def test_margins_are_divided_into_thirds():
    assert margin_bins([0.1, 0.5, None]) == ["0.1", "0.5", None]
    assert margin_bins([1.0, 2, 3, 4, 5, 6, 7]) == ["up to 3"] * 3 + ["up to 5"] * 2 + ["above 5"] * 2


def test_ratings_by_hand():
    ratings = [Rating(Sample("p", "x"), points, group) for points, group in ((1, 0), (3, 0), (5, 1), (5, 1))]
    metrics = rating_metrics(ratings, np.array([2.0, 3.0, 4.0, 5.0]))
    assert metrics.rmse == pytest.approx(math.sqrt((1 + 0 + 1 + 0) / 4))
    assert metrics.accuracy == 1.0  # of the one pair of different ratings within a group
    assert metrics.groups == 2
