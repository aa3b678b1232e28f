"""Win rates by hand, "both are bad" and skips, rankings as pairs, and inverse weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlalign.feedback.statistics.intervals import covariance
from rlalign.feedback.statistics.judgments import BAD, LOSS, SKIP, TIE, WIN
from rlalign.feedback.statistics.win_rates import (
    average_win_rates,
    comparisons,
    inverse_weights,
    outcome_rates,
    pair_influences,
    ranked_pairs,
    win_rates,
)
from tests.feedback.statistics.conftest import draw, pairs


def test_a_tie_and_two_bad_completions_are_half_a_win() -> None:
    votes = pairs([WIN, WIN, TIE, BAD, LOSS, SKIP], person=[0, 1, 2, 0, 1, 2])
    (pair,) = win_rates(comparisons(votes))
    assert pair.rate.panel.value == pytest.approx((2 + 0.5 + 0.5) / 5)
    assert (pair.wins, pair.ties, pair.bad, pair.losses) == (2, 1, 1, 1)
    assert (pair.rate.panel.prompts, pair.rate.panel.people, pair.rate.panel.votes) == (5, 3, 5)


def test_only_comparisons_of_different_policies_count() -> None:
    votes = pairs([WIN] * 5, policy=[[0, 1], [0, 0], [0, 1], [0, 1], [-1, -1]])
    marked = dataclasses.replace(votes, gold=np.array([0, 0, 1, 0, 0], bool), repeat_of=np.array([-1, -1, -1, 7, -1]))
    assert len(comparisons(marked)) == 1


def test_skips_and_bad_ones_have_a_rate_per_policy() -> None:
    votes = pairs([SKIP, SKIP, BAD, WIN], policy=[[0, 1], [0, 2], [1, 2], [1, 2]], policies=3)
    skips = outcome_rates(votes, SKIP)
    assert {k: e.panel.value for k, e in skips.items()} == {
        None: 0.5,
        0: 1.0,
        1: pytest.approx(1 / 3),
        2: pytest.approx(1 / 3),
    }
    bad = outcome_rates(votes, BAD)
    assert bad[None].panel.value == 0.5
    assert bad[None].panel.votes == 2  # skips are no answers
    assert 0 not in bad


def test_a_ranking_is_compared_in_pairs_of_its_cluster() -> None:
    base = pairs([-1, -1], group=[4, 5])
    ranking = dataclasses.replace(
        base, kind="ranking", policy=np.array([[0, 1, 2], [0, 2, -1]]), place=np.array([[2, 0, 1], [0, 1, -1]]),
        ranks=np.array([[1, 2, 2], [2, 1, 0]]), length=np.ones((2, 3), int), markdown=np.zeros((2, 3, 3), int),
        policies=("x", "y", "z"),
    )  # fmt: skip
    listed = comparisons(ranking)
    rows = sorted(
        (int(g), tuple(p), int(o)) for g, p, o in zip(listed.group, listed.policy.tolist(), listed.outcome, strict=True)
    )
    assert rows == [(4, (0, 1), WIN), (4, (0, 2), WIN), (4, (1, 2), TIE), (5, (0, 2), LOSS)]
    assert len(set(ranked_pairs(ranking).item.tolist())) == 4


def test_items_chosen_by_another_rule_have_inverse_weights() -> None:
    """Half of the prompts are hard. They are selected four times as often, and lost: the plain rate is too low."""
    rng = np.random.default_rng(0)
    hard = rng.random(20_000) < 0.5
    probability = np.where(hard, 0.8, 0.2)
    chosen = rng.random(20_000) < probability
    outcome = np.where(rng.random(20_000) < np.where(hard, 0.3, 0.7), WIN, LOSS)
    votes = dataclasses.replace(pairs(outcome[chosen]), probability=probability[chosen])
    assert inverse_weights(pairs([WIN, LOSS])) is None
    (pair,) = win_rates(votes)
    assert pair.rate.panel.value == pytest.approx(0.5, abs=0.02)
    assert (outcome[chosen] == WIN).mean() < 0.4
    assert "inverse selection" in pair.rate.panel.method


def test_influences_give_the_covariance_of_the_rates() -> None:
    votes = draw(0, 400, strengths=(0.4, 0.2, 0.0), prompt_sd=1.0)
    joint = covariance(pair_influences(votes), votes.group, votes.person)
    for at, pair in enumerate(win_rates(votes)):
        # but for the two added prompts and the factor of the number of clusters
        assert np.sqrt(joint.panel[at, at]) == pytest.approx(pair.rate.panel.se, rel=0.02)


def test_averages_over_the_other_policies() -> None:
    votes = pairs([WIN, LOSS, WIN, TIE], policy=[[0, 1], [0, 1], [0, 2], [1, 2]], policies=3)
    averages = {k: e.panel.value for k, e in average_win_rates(votes).items()}
    assert averages == {0: pytest.approx(3 / 4), 1: 0.5, 2: 0.25}


def test_the_average_does_not_depend_on_the_numbers_of_votes() -> None:
    policy = [[0, 1]] * 90 + [[0, 2]] * 10
    votes = pairs([WIN] * 45 + [LOSS] * 45 + [WIN] * 10, policy=policy, policies=3)
    average = average_win_rates(votes)[0].panel
    assert average.value == pytest.approx(0.75)
    # the pairs are independent, and the second has no variance: half the error of the first
    assert average.se == pytest.approx(0.5 * 0.5 / np.sqrt(90), rel=0.06)
