"""Best-of-n: the estimator against all subsets, its bias against enumeration, and the KL against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.evaluation.best_of_n import (
    best_of_n,
    best_of_n_weights,
    exact_distribution,
    exact_kl,
    kl_upper_bound,
    powers_up_to,
)
from rlalign.oracle import TokenMDP

REWARDS = {
    "different": [0.3, -1.0, 2.5, 0.7, 0.1, 5.0, -0.2],
    "ties": [1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.5],
    "equal": [2.0] * 7,
    "best tie": [0.0, 0.1, 3.0, 3.0, 0.2, 3.0, 0.3],
}


def over_all_subsets(rewards: list[float], metric: list[float], n: int) -> float:
    """Return the mean over all subsets of size n of the mean metric of their samples of highest reward."""
    values = []
    for subset in itertools.combinations(range(len(rewards)), n):
        best = max(rewards[i] for i in subset)
        kept = [metric[i] for i in subset if rewards[i] == best]
        values.append(sum(kept) / len(kept))
    return sum(values) / len(values)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("name", REWARDS)
def test_the_estimate_is_the_mean_over_all_subsets(name: str, n: int) -> None:
    rewards = REWARDS[name]
    metric = [3.0, -2.0, 0.5, 7.0, 1.5, -4.0, 0.25]
    for values in (rewards, metric):
        estimate = best_of_n(np.array([rewards]), np.array([values]), n)
        assert estimate.item() == pytest.approx(over_all_subsets(rewards, values, n), abs=1e-12)


def test_the_weights_sum_to_one_for_many_samples_and_the_order_plays_no_part() -> None:
    rewards = np.random.default_rng(0).normal(size=1024).round(1)
    weights = best_of_n_weights(rewards, 256)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    order = np.random.default_rng(1).permutation(1024)
    assert best_of_n_weights(rewards[order], 256) == pytest.approx(weights[order], abs=1e-15)


def test_samples_without_a_score_are_left_out() -> None:
    nan = math.nan
    rewards = np.array([[1.0, nan, 3.0, 2.0], [nan, nan, 1.0, nan]])
    estimate = best_of_n(rewards, rewards, 2)
    assert estimate[0] == pytest.approx(over_all_subsets([1.0, 3.0, 2.0], [1.0, 3.0, 2.0], 2))
    assert math.isnan(estimate[1])
    metric = np.array([[5.0, 5.0, nan, 4.0]])
    assert best_of_n(rewards[:1], metric, 1).item() == pytest.approx(4.5)


def test_n_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        best_of_n_weights(np.zeros(3), 0)


def test_the_grid_holds_the_powers_of_two_and_n() -> None:
    assert [powers_up_to(n) for n in (1, 2, 5, 16)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8, 16]]


def enumerable(rewards: str) -> tuple[np.ndarray, np.ndarray]:
    mdp = TokenMDP(horizon=3)
    p = mdp.probabilities(mdp.table(seed=3)).numpy()
    values = mdp.rewards.numpy()
    return p, {"different": values, "three values": (values * 3).round(), "equal": np.ones_like(values)}[rewards]


def by_definition(p: np.ndarray, r: np.ndarray, n: int) -> np.ndarray:
    """Return the distribution of the kept completion as a sum over all n-tuples of draws."""
    kept = np.zeros_like(p)
    for draws in itertools.product(range(len(p)), repeat=n):
        best = max(r[i] for i in draws)
        winners = [i for i in draws if r[i] == best]
        for i in winners:
            kept[i] += math.prod(p[j] for j in draws) / len(winners)
    return kept


@pytest.mark.parametrize("rewards", ["different", "three values", "equal"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_exact_distribution_and_kl_are_those_of_all_tuples_of_draws(rewards: str, n: int) -> None:
    p, r = enumerable(rewards)
    kept = by_definition(p, r, n)
    assert exact_distribution(p, r, n) == pytest.approx(kept, abs=1e-12)
    assert exact_kl(p, r, n) == pytest.approx(float(kept @ np.log(kept / p)), abs=1e-12)


@pytest.mark.parametrize("rewards", ["different", "three values", "equal"])
def test_the_bound_is_above_the_exact_kl_and_far_above_it_where_rewards_are_equal(rewards: str) -> None:
    p, r = enumerable(rewards)
    for n in (1, 2, 4, 16, 64):
        assert exact_kl(p, r, n) <= kl_upper_bound(n) + 1e-12
    best = p[r == r.max()].sum()
    assert exact_kl(p, r, 4096) == pytest.approx(-math.log(best), abs=1e-6)  # where the bound has no limit


def test_the_bound_is_reached_by_many_completions_of_small_probability() -> None:
    p = np.full(200_000, 1 / 200_000)
    assert exact_kl(p, np.arange(200_000.0), 16) == pytest.approx(kl_upper_bound(16), abs=1e-3)


def test_the_estimate_has_no_bias() -> None:
    """Compare the mean over 4,000 prompts with enumeration: four z-tests at 4 sigma, 3 false alarms in 10,000."""
    p, r = enumerable("three values")
    gold = np.random.default_rng(5).normal(size=len(p))
    draws = np.random.default_rng(6).choice(len(p), size=(4000, 16), p=p / p.sum())
    for n in (2, 4):
        kept = exact_distribution(p, r, n)
        for metric in (r, gold):
            estimates = best_of_n(r[draws], metric[draws], n)
            error = float(estimates.std(ddof=1)) / math.sqrt(len(estimates))
            assert abs(float(estimates.mean()) - float(kept @ metric)) < 4 * error


def test_the_naive_estimate_that_breaks_ties_by_order_is_biased() -> None:
    """Check that the test above can fail: ranks without shared ties follow the order of the samples."""
    p, r = enumerable("three values")
    gold = np.arange(float(len(p)))
    kept = exact_distribution(p, r, 2)
    draws = np.sort(np.random.default_rng(6).choice(len(p), size=(4000, 8), p=p / p.sum()), axis=1)
    weights = np.array([math.comb(i, 1) / math.comb(8, 2) for i in range(8)])
    naive = np.array([gold[row][np.argsort(r[row], kind="stable")] @ weights for row in draws])
    error = float(naive.std(ddof=1)) / math.sqrt(len(naive))
    assert abs(float(naive.mean()) - float(kept @ gold)) > 4 * error
    shared = best_of_n(r[draws], gold[draws], 2)
    assert abs(float(shared.mean()) - float(kept @ gold)) < 4 * float(shared.std(ddof=1)) / math.sqrt(len(shared))
