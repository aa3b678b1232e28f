"""Simultaneous intervals, rank sets and cycles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlalign.feedback.statistics.estimate import Counts, Estimate
from rlalign.feedback.statistics.intervals import Covariance
from rlalign.feedback.statistics.ranking import RankSet, contrasts, critical_value, cycles, elo, rank_sets, simultaneous


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 0.1, "", "", 1, 1, 1)


def test_critical_values() -> None:
    assert critical_value(np.eye(1), 7) == pytest.approx(stats.t.ppf(0.975, 7))
    # independent normal claims: Šidák. 20,000 draws have an error of about 0.015 here
    sidak = stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2)
    assert critical_value(np.eye(6), 1e6) == pytest.approx(sidak, abs=0.05)
    # the same claim six times is one claim
    assert critical_value(np.ones((6, 6)), 1e6) == pytest.approx(1.96, abs=0.04)
    # all differences of independent means with the same variance: the studentized range
    _, matrix = contrasts(4)
    correlation = matrix @ matrix.T / 2
    tukey = stats.studentized_range.ppf(0.95, 4, 12) / math.sqrt(2)
    assert critical_value(correlation, 12) == pytest.approx(tukey, rel=0.02)


def test_simultaneous_intervals_hold_together() -> None:
    """5,000 sets of 4 correlated estimates: 95 ± 1.5 points are 4.9 standard errors."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    matrix = root @ root.T / 50
    of = Covariance(matrix, matrix, Counts(10_000, 1000, 30_000))
    claims = simultaneous(np.zeros(4), of, "population", method="").estimates
    values = rng.normal(size=(5000, 4)) @ root.T / 50**0.5
    half = np.array([claim.high for claim in claims])
    assert (np.abs(values) < half).all(1).mean() == pytest.approx(0.95, abs=0.015)


def test_no_degrees_of_freedom_no_claim() -> None:
    of = Covariance(np.eye(2), np.full((2, 2), math.nan), Counts(30, 1, 30))
    found = simultaneous(np.array([0.0, 9.0]), of, "population", method="")
    assert math.isnan(found.critical)
    assert all(math.isnan(e.low) for e in found.estimates)
    assert rank_sets([(0, 1)], [found.estimates[0]], 2) == [RankSet(1, 2), RankSet(1, 2)]


def test_rank_sets() -> None:
    pairs, _ = contrasts(3)
    assert pairs == [(0, 1), (0, 2), (1, 2)]
    # 0 is better than 2; nothing else is known
    found = rank_sets(pairs, [estimate(-1, 1), estimate(0.1, 1), estimate(-0.1, 1)], 3)
    assert found == [RankSet(1, 2), RankSet(1, 3), RankSet(2, 3)]
    # 2 > 0 > 1
    found = rank_sets(pairs, [estimate(1, 2), estimate(-3, -2), estimate(-2, -1)], 3)
    assert found == [RankSet(2, 2), RankSet(3, 3), RankSet(1, 1)]


def test_cycles() -> None:
    edges = np.zeros((5, 5), bool)
    edges[0, 1] = edges[1, 2] = edges[3, 4] = edges[0, 3] = True
    assert cycles(edges) == []
    edges[2, 0] = True
    assert cycles(edges) == [(0, 1, 2)]


def test_elo_is_another_scale() -> None:
    assert elo(np.array([0.0, math.log(10)])).tolist() == pytest.approx([1500, 1900])
