"""Information, expected variances and disagreement equal numerical derivatives and counts."""

from __future__ import annotations

import numpy as np
import pytest

from rlalign.feedback.statistics.information import (
    allocate,
    ensemble_disagreement,
    outcome_probabilities,
    posterior_mode,
    strength_covariance,
    variance_reduction,
    vote_information,
)


@pytest.mark.parametrize("ties", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("delta", [-2.0, 0.0, 0.7, 5.0])
def test_information_is_the_expected_second_derivative(ties: float, delta: float) -> None:
    h = 1e-4
    logs = [np.log(np.maximum(outcome_probabilities(np.array(delta + s * h), ties), 1e-300)) for s in (-1, 0, 1)]
    second = (logs[0] - 2 * logs[1] + logs[2]) / h**2
    probabilities = np.array(outcome_probabilities(np.array(delta), ties))
    assert float(vote_information(np.array(delta), ties)) == pytest.approx(-float(probabilities @ second), abs=1e-5)


def test_information_without_ties_is_that_of_bradley_and_terry() -> None:
    delta = np.array([-3.0, 0.0, 1.0, 800.0])
    p = 1 / (1 + np.exp(-delta))
    assert vote_information(delta, 0.0) == pytest.approx(p * (1 - p))


def test_the_mode_has_no_slope_and_exists_for_a_policy_that_won_each_vote() -> None:
    wins = np.array([[0.0, 9, 4], [0, 0, 2], [0, 3, 0]])
    ties = np.array([[0.0, 1, 0], [0, 0, 5], [0, 0, 0]])
    strengths, nu = posterior_mode(wins, ties)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)
    assert np.isfinite(strengths).all()
    assert strengths.argmax() == 0

    def log_posterior(theta: np.ndarray, log_nu: float) -> float:
        value = -0.5 * float(theta @ theta) / 4 - 0.5 * (log_nu - np.log(0.3)) ** 2
        for i in range(3):
            for j in range(i + 1, 3):
                win, loss, tie = np.log(outcome_probabilities(theta[i] - theta[j], float(np.exp(log_nu))))
                value += wins[i, j] * win + wins[j, i] * loss + ties[i, j] * tie
        return float(value)

    best = log_posterior(strengths, np.log(nu))
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 1e-2:
        assert log_posterior(strengths + step[:3], np.log(nu) + step[3]) < best + 1e-7


def test_no_votes_give_equal_strengths() -> None:
    strengths, nu = posterior_mode(np.zeros((3, 3)), np.zeros((3, 3)))
    assert strengths == pytest.approx(np.zeros(3))
    assert nu == pytest.approx(0.3)


def test_the_reduction_of_variance_is_that_of_an_inverted_matrix() -> None:
    strengths = np.array([1.0, 0.2, -1.2])
    votes = np.array([[0, 12.0, 3], [0, 0, 30], [0, 0, 0]])
    covariance = strength_covariance(strengths, 0.3, votes)
    information = vote_information(strengths[:, None] - strengths[None, :], 0.3)
    reduction = variance_reduction(covariance, information)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        more = votes.copy()
        more[i, j] += 1
        after = strength_covariance(strengths, 0.3, more)
        assert reduction[i, j] == pytest.approx(np.trace(covariance) - np.trace(after))
    assert reduction[1, 0] == 0


def test_allocation_is_the_best_of_all_for_the_next_item_and_respects_what_is_left() -> None:
    strengths = np.array([1.5, 0.0, -1.5])
    votes = np.triu(np.full((3, 3), 9.0), 1)
    available = np.triu(np.full((3, 3), 50), 1)
    one = allocate(strengths, 0.3, votes, available, 1, 3)
    totals = {}
    for pair in ((0, 1), (0, 2), (1, 2)):
        more = votes.copy()
        more[pair] += 3
        totals[pair] = np.trace(strength_covariance(strengths, 0.3, more))
    assert one[min(totals, key=totals.__getitem__)] == 1
    many = allocate(strengths, 0.3, votes, available, 60, 3)
    assert many.sum() == 60
    # policies that differ much tell less per vote
    assert many[0, 2] < many[0, 1]
    few = allocate(strengths, 0.3, votes, np.triu(np.full((3, 3), 4), 1), 60, 3)
    assert few[np.triu_indices(3, 1)].tolist() == [4, 4, 4]


def test_equal_policies_get_equal_shares() -> None:
    given = allocate(np.zeros(4), 0.3, np.zeros((4, 4)), np.triu(np.full((4, 4), 99), 1), 60, 3)
    assert set(given[np.triu_indices(4, 1)].tolist()) == {10}


def test_disagreement_of_an_ensemble_is_the_mean_over_pairs_of_members() -> None:
    p = np.random.default_rng(0).random((4, 6))
    pairs = [(m, n) for m in range(4) for n in range(4) if m != n]
    expected = np.mean([p[m] * (1 - p[n]) + (1 - p[m]) * p[n] for m, n in pairs], axis=0)
    assert ensemble_disagreement(p) == pytest.approx(expected)
    assert ensemble_disagreement(np.array([[1.0, 1.0], [0.0, 1.0]])).tolist() == [1.0, 0.0]
