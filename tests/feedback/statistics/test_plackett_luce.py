"""Rankings against choix, ties, and pairs as rankings of two."""

from __future__ import annotations

import dataclasses

import choix
import numpy as np
import pytest

from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN, Judgments
from rlalign.feedback.statistics.plackett_luce import fit_rankings
from rlalign.feedback.statistics.strengths import Refusal, Strengths
from tests.feedback.statistics.conftest import draw, pairs


def rankings(policy: np.ndarray, ranks: np.ndarray, group: np.ndarray | None = None) -> Judgments:
    n, k = policy.shape
    return dataclasses.replace(
        pairs(np.full(n, -1), group=np.arange(n) if group is None else group, person=np.arange(n) % 5),
        kind="ranking", policy=policy, ranks=ranks, place=np.tile(np.arange(k), (n, 1)), length=np.ones((n, k), int),
        markdown=np.zeros((n, k, 3), int), policies=tuple("abcdef"[: policy.max() + 1]),
    )  # fmt: skip


def sample(seed: int, n: int = 400, policies: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    policy = np.sort(np.argsort(rng.random((n, policies)), 1)[:, :4], 1)
    utility = np.linspace(-0.7, 0.7, policies)[policy] + rng.gumbel(size=policy.shape)
    return policy, (-utility).argsort(1).argsort(1) + 1


def fitted(votes: Judgments) -> Strengths:
    found = fit_rankings(votes)
    assert isinstance(found, Strengths), found
    return found


def test_strengths_are_those_of_choix() -> None:
    policy, ranks = sample(0)
    policy[:50, 3], ranks[:50] = -1, np.argsort(np.argsort(ranks[:50, :3], 1), 1)[:, [0, 1, 2, 2]] + 1
    ranks[:50, 3] = 0
    orders = [
        tuple(p[p >= 0][np.argsort(r[p >= 0])].tolist()) for p, r in zip(policy, ranks, strict=True)
    ]  # fmt: skip
    expected = choix.opt_rankings(5, orders)
    np.testing.assert_allclose(fitted(rankings(policy, ranks)).values, expected - expected.mean(), atol=1e-5)


def test_a_tie_of_two_is_half_of_each_order() -> None:
    """Each tie, replaced by both orders, is a ranking of weight 1/2: all others twice, at the same clusters."""
    policy, ranks = sample(1, n=200)
    tied = np.where(ranks == 4, 3, ranks)
    both = np.concatenate([policy, policy]), np.concatenate([ranks, np.where(ranks >= 3, 7 - ranks, ranks)])
    group = np.tile(np.arange(200), 2)
    once, twice = fitted(rankings(policy, tied)), fitted(rankings(*both, group=group))
    np.testing.assert_allclose(once.values, twice.values, atol=1e-7)
    np.testing.assert_allclose(once.covariance.panel, twice.covariance.panel, rtol=1e-6)


def test_rankings_of_two_are_bradley_terry_with_ties_as_half_a_win() -> None:
    votes = draw(2, 200, strengths=(0.0, 0.5, 1.0))
    ranks = np.where(
        votes.outcome[:, None] == WIN, [[1, 2]], np.where(votes.outcome[:, None] == LOSS, [[2, 1]], [[1, 1]])
    )
    found = fitted(dataclasses.replace(votes, kind="ranking", ranks=ranks, outcome=np.full(len(votes), -1)))
    won = [(int(a), int(b)) for a, b, o in zip(votes.first, votes.second, votes.outcome, strict=True) if o == WIN]
    lost = [(int(b), int(a)) for a, b, o in zip(votes.first, votes.second, votes.outcome, strict=True) if o == LOSS]
    tied = [(int(a), int(b)) for a, b, o in zip(votes.first, votes.second, votes.outcome, strict=True) if o == TIE]
    expected = choix.opt_pairwise(3, [*won, *won, *lost, *lost, *tied, *[(b, a) for a, b in tied]])
    np.testing.assert_allclose(found.values, expected - expected.mean(), atol=1e-5)


def test_the_panels_error_is_that_of_a_jackknife() -> None:
    policy, ranks = sample(3, n=120)
    votes = rankings(policy, ranks, np.arange(120) // 2)
    found = fitted(votes)
    left_out = np.array([fitted(votes.take(votes.group != g)).values for g in range(60)])
    jackknife = 59 / 60 * ((left_out - left_out.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(np.diag(found.covariance.panel), jackknife, rtol=0.15)
    assert found.covariance.counts.prompts == 60


def test_a_policy_that_is_ranked_only_against_itself_has_no_strength() -> None:
    policy, ranks = sample(4, n=100, policies=4)
    itself = np.tile([5, 5, -1, -1], (3, 1))
    found = fitted(rankings(np.concatenate([policy, itself]), np.concatenate([ranks, np.tile([1, 2, 0, 0], (3, 1))])))
    assert found.policies == (0, 1, 2, 3)
    np.testing.assert_allclose(found.values, fitted(rankings(policy, ranks)).values, atol=1e-8)


def test_refusals() -> None:
    apart = rankings(np.array([[0, 1], [2, 3]]), np.array([[1, 2], [1, 2]]))
    first = rankings(np.array([[0, 1, 2], [0, 1, 2]]), np.array([[1, 2, 3], [1, 3, 2]]))
    for votes, reason in ((apart, "disconnected"), (first, "separated"), (apart.take(np.zeros(2, bool)), "no votes")):
        found = fit_rankings(votes)
        assert isinstance(found, Refusal)
        assert found.reason == reason


@pytest.mark.parametrize("k", [2, 3, 4])
def test_all_tied_rankings_are_refused(k: int) -> None:
    found = fit_rankings(rankings(np.tile(np.arange(k), (5, 1)), np.ones((5, k), int)))
    assert isinstance(found, Refusal)
    assert found.reason == "only ties"
