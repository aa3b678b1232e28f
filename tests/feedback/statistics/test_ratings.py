"""The ordinal model against its likelihood, and the comparison of ranks against scipy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import optimize, special, stats

from rlalign.feedback.statistics.judgments import Judgments
from rlalign.feedback.statistics.ratings import OrdinalFit, fit_ratings, superiority
from rlalign.feedback.statistics.strengths import Refusal
from tests.feedback.statistics.conftest import pairs


def ratings(policy: np.ndarray, points: np.ndarray, group: np.ndarray | None = None, people: int = 5) -> Judgments:
    n = len(policy)
    return dataclasses.replace(
        pairs(np.full(n, -1), group=np.arange(n) if group is None else group, person=np.arange(n) % people),
        kind="rating", policy=policy[:, None], ratings=points[:, None], scales=("q",), place=np.zeros((n, 1), int),
        length=np.ones((n, 1), int), markdown=np.zeros((n, 1, 3), int), ranks=np.zeros((n, 1), int),
        policies=tuple("abcdef"[: policy.max() + 1]),
    )  # fmt: skip


def sample(seed: int, n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    policy = rng.integers(0, 3, n)
    latent = np.array([-0.5, 0.0, 0.7])[policy] + rng.logistic(size=n)
    return policy, np.array([1, 2, 4, 5])[np.digitize(latent, [-1.0, 0.2, 1.0])]  # nobody gives 3 points


def test_the_model_is_the_maximum_of_its_likelihood() -> None:
    policy, points = sample(0)

    def loss(at: np.ndarray) -> float:
        theta = np.array([0.0, at[0], at[1]])[policy]
        tau = np.concatenate([[-np.inf], np.sort(at[2:]), [np.inf]])
        level = np.searchsorted([1, 2, 4, 5], points)
        return -float(np.log(special.expit(tau[level + 1] - theta) - special.expit(tau[level] - theta)).sum())

    best = optimize.minimize(
        loss, [0, 0, -1, 0, 1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 10_000}
    ).x
    found = fit_ratings(ratings(policy, points), 0)
    assert isinstance(found, OrdinalFit)
    expected = np.array([0.0, best[0], best[1]])
    np.testing.assert_allclose(found.values, expected - expected.mean(), atol=1e-4)
    np.testing.assert_allclose(found.thresholds, np.sort(best[2:]), atol=1e-4)
    assert found.log_likelihood == pytest.approx(-loss(best), abs=1e-5)


def test_the_panels_error_is_that_of_a_jackknife() -> None:
    policy, points = sample(1, n=240)
    votes = ratings(policy, points, np.arange(240) // 3)
    found = fit_ratings(votes, 0)
    assert isinstance(found, OrdinalFit)
    left_out = np.array([fit_ratings(votes.take(votes.group != g), 0).values for g in range(80)])  # type: ignore[union-attr]
    jackknife = 79 / 80 * ((left_out - left_out.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(np.diag(found.covariance.panel), jackknife, rtol=0.15)


def test_superiority_is_the_statistic_of_mann_and_whitney() -> None:
    policy, points = sample(2)
    found = superiority(ratings(policy, points), 0)
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    for (i, j), estimate in found.items():
        x, y = points[policy == i], points[policy == j]
        u = stats.mannwhitneyu(x, y).statistic
        assert estimate.panel.value == pytest.approx(u / (len(x) * len(y)))
        # independent votes: the variance of Brunner and Munzel, by the placements of both samples
        n, m = len(x), len(y)
        above = np.array([(y < a).mean() + (y == a).mean() / 2 for a in x])
        below = np.array([(x < b).mean() + (x == b).mean() / 2 for b in y])
        se = np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m)
        assert estimate.panel.se == pytest.approx(se, rel=0.02)


def test_copies_of_a_prompt_are_no_further_observations() -> None:
    policy, points = sample(3, n=200)
    once = superiority(ratings(policy, points), 0)[0, 1].panel
    twice = superiority(ratings(np.tile(policy, 2), np.tile(points, 2), np.tile(np.arange(200), 2)), 0)[0, 1].panel
    assert twice.se == pytest.approx(once.se)


def test_a_policy_that_is_always_above_has_an_interval() -> None:
    policy = np.repeat([0, 1], 20)
    found = superiority(ratings(policy, np.where(policy == 0, 5, 1)), 0)[0, 1].panel
    assert found.value == 1
    assert 0.8 < found.low < 1


def test_refusals() -> None:
    policy = np.repeat([0, 1], 5)
    cases = {
        "separated": ratings(policy, np.where(policy == 0, 5, np.arange(10) % 3 + 1)),
        "separated ": ratings(policy, np.where(policy == 0, 1, 3) + np.arange(10) % 2),  # 1 to 2, and 3 to 4
        "only ties": ratings(policy, np.full(10, 3)),
        "one policy": ratings(np.zeros(5, int), np.arange(5) + 1),
        "no votes": ratings(policy, np.zeros(10, int)),
    }
    for reason, votes in cases.items():
        found = fit_ratings(votes, 0)
        assert isinstance(found, Refusal)
        assert found.reason == reason.strip()
