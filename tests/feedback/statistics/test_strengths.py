"""Strengths against choix, evalica, arenakit and a brute-force likelihood, and their refusals."""

from __future__ import annotations

import dataclasses
import math

import choix
import evalica
import numpy as np
import pytest
from arenakit.bt import fit_rao_kupper
from arenakit.schema import PairCounts
from scipy import optimize

from rlalign.feedback.statistics.judgments import BAD, LOSS, TIE, WIN, Judgments
from rlalign.feedback.statistics.strengths import MODELS, TERMS, Model, Refusal, Strengths, fit
from tests.feedback.statistics.conftest import draw, pairs

STRENGTHS = (0.0, 0.5, 1.0, 0.2)


def fitted(votes: Judgments, model: Model = "davidson", terms: tuple[str, ...] = ()) -> Strengths:
    found = fit(votes, model, terms)
    assert isinstance(found, Strengths), found
    return found


def sides(votes: Judgments) -> tuple[list[int], list[int]]:
    """Return winners and losers of the decisive votes."""
    won = votes.outcome == WIN
    winners = np.where(won, votes.first, votes.second)[votes.outcome != TIE]
    losers = np.where(won, votes.second, votes.first)[votes.outcome != TIE]
    return winners.tolist(), losers.tolist()


def test_davidson_is_the_maximum_of_its_likelihood() -> None:
    votes = draw(0, 800, strengths=(0.0, 0.5, 1.0))

    def loss(at: np.ndarray) -> float:
        p = np.exp([0.0, at[0], at[1]])
        a, b = p[votes.first], p[votes.second]
        tie = np.exp(at[2]) * np.sqrt(a * b)
        chosen = np.choose(votes.outcome, [b, tie, a])
        return -float(np.log(chosen / (a + b + tie)).sum())

    best = optimize.minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}).x
    expected = np.array([0.0, best[0], best[1]])
    found = fitted(votes)
    np.testing.assert_allclose(found.values, expected - expected.mean(), atol=1e-5)
    assert found.tie == pytest.approx(np.exp(best[2]), rel=1e-5)
    assert found.log_likelihood == pytest.approx(-loss(best))
    assert sum(found.values) == pytest.approx(0)


def test_davidson_is_newmans_model_with_ties() -> None:
    votes = draw(1, 600, strengths=STRENGTHS)
    winner = {WIN: evalica.Winner.X, LOSS: evalica.Winner.Y, TIE: evalica.Winner.Draw}
    found = evalica.newman(
        votes.first.tolist(), votes.second.tolist(), [winner[o] for o in votes.outcome.tolist()], tolerance=1e-13,
        limit=100_000,
    )  # fmt: skip
    logs = np.log(found.scores.sort_index().to_numpy())
    np.testing.assert_allclose(fitted(votes).values, logs - logs.mean(), atol=1e-5)


def test_without_ties_all_models_are_bradley_terry() -> None:
    votes = draw(2, 500, strengths=STRENGTHS, ties=0.0)
    expected = choix.opt_pairwise(4, list(zip(*sides(votes), strict=True)))
    for model in MODELS:
        found = fitted(votes, model)
        np.testing.assert_allclose(found.values, expected - expected.mean(), atol=1e-5)
        assert math.isnan(found.tie)


def test_dropped_ties_leave_the_decisive_votes() -> None:
    votes = draw(3, 500, strengths=STRENGTHS)
    expected = choix.opt_pairwise(4, list(zip(*sides(votes), strict=True)))
    np.testing.assert_allclose(fitted(votes, "ties dropped").values, expected - expected.mean(), atol=1e-5)


def test_rao_kupper_is_that_of_arenakit() -> None:
    votes = draw(4, 500, strengths=STRENGTHS)
    counts = np.zeros((3, 4, 4))
    np.add.at(counts, (votes.outcome, votes.first, votes.second), 1.0)
    expected = fit_rao_kupper(PairCounts(wf=counts[WIN], ws=counts[LOSS], tt=counts[TIE]), prior=0.0)
    found = fitted(votes, "rao-kupper")
    np.testing.assert_allclose(found.values, expected.scores - expected.scores.mean(), atol=1e-5)
    assert found.tie == pytest.approx(expected.tie_theta, rel=1e-5)


def test_the_covariance_is_that_of_a_jackknife_over_prompts() -> None:
    votes = draw(5, 150, strengths=(0.0, 0.5, 1.0), prompt_sd=1.0, left=0.3)
    found = fitted(votes, "davidson", ("position",))
    left_out = []
    for group in range(150):
        part = fitted(votes.take(votes.group != group), "davidson", ("position",))
        left_out.append(np.concatenate([part.values, part.effects]))
    deviations = np.array(left_out) - np.mean(left_out, axis=0)
    jackknife = 149 / 150 * deviations.T @ deviations
    np.testing.assert_allclose(
        np.sqrt(np.diag(found.covariance.panel)), np.sqrt(np.diag(jackknife)), rtol=0.06
    )  # fmt: skip


def test_planted_terms_are_found() -> None:
    """Estimates of 12,000 votes; each is within 4 standard errors, which fails by chance in 0.02 % of seeds."""
    votes = draw(6, 4000, strengths=(0.0, 0.6), left=0.3, length=0.4)
    found = fitted(votes, "davidson", TERMS)
    assert found.terms == ("position", "length")  # there is no Markdown in these texts
    errors = np.sqrt(np.diag(found.covariance.panel))
    assert abs(found.effects[0] - 0.3) < 4 * errors[2]
    assert abs(found.effects[1] - 0.4) < 4 * errors[3]
    plain = fitted(votes)
    assert plain.log_likelihood < found.log_likelihood - 20


def test_a_term_of_two_values_is_the_position() -> None:
    """Lengths that depend on the side alone are another scale of the position term, for two policies."""
    votes = draw(7, 300, strengths=(0.0, 0.6), left=0.3)
    rows = fitted(votes, "davidson", ("position",))
    two = dataclasses.replace(votes, length=np.where(votes.first_left[:, None], [[20, 10]], [[30, 10]]))
    assert fitted(two, "davidson", ("length",)).log_likelihood == pytest.approx(rows.log_likelihood)


def test_aggregated_votes_are_the_same_fit() -> None:
    """One length that differs a little makes a row of each vote."""
    votes = draw(7, 300, strengths=(0.0, 0.6, 0.3), left=0.3)
    side = np.where(votes.first_left[:, None], [[20_000, 10_000]], [[10_000, 20_000]])
    rows = fitted(dataclasses.replace(votes, length=side), "davidson", ("length",))
    side = side.copy()
    side[0] += [1, 0]
    alone = fitted(dataclasses.replace(votes, length=side), "davidson", ("length",))
    np.testing.assert_allclose(rows.values, alone.values, atol=1e-4)
    np.testing.assert_allclose(rows.covariance.panel, alone.covariance.panel, rtol=1e-3)
    np.testing.assert_allclose(rows.covariance.population, alone.covariance.population, rtol=1e-3)


def test_a_weight_of_two_is_the_vote_twice() -> None:
    votes = draw(8, 200, strengths=(0.0, 0.5, 1.0))
    often = np.arange(len(votes)) % 2 == 0
    weighted = fitted(dataclasses.replace(votes, probability=np.where(often, 0.5, 1.0)))
    copied = fitted(votes.take(np.repeat(np.arange(len(votes)), np.where(often, 2, 1))))
    np.testing.assert_allclose(weighted.values, copied.values, atol=1e-8)
    np.testing.assert_allclose(weighted.covariance.panel, copied.covariance.panel, rtol=1e-6)


def test_both_bad_is_a_tie() -> None:
    votes = draw(9, 200, strengths=(0.0, 0.5))
    bad = dataclasses.replace(votes, outcome=np.where(votes.outcome == TIE, BAD, votes.outcome))
    np.testing.assert_allclose(fitted(votes).values, fitted(bad).values)


@pytest.mark.parametrize(
    ("votes", "reason", "named"),
    [
        (pairs([]), "no votes", ""),
        (pairs([WIN, LOSS] * 2, policy=[[0, 1], [0, 1], [2, 3], [2, 3]]), "disconnected", "a, b | c, d"),
        (pairs([WIN, WIN, LOSS, WIN], policy=[[0, 1], [0, 2], [1, 2], [1, 2]]), "separated", "a | b, c"),
        (pairs([TIE, BAD, TIE]), "only ties", ""),
    ],
)
def test_no_maximum_no_strengths(votes: Judgments, reason: str, named: str) -> None:
    found = fit(votes)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert named in found.detail
    assert found.to_json() == {"refused": reason, "detail": found.detail}


def test_a_tie_connects_in_both_directions() -> None:
    """A policy that never lost, but tied once, has a finite strength."""
    votes = pairs([WIN, WIN, TIE, WIN, LOSS], policy=[[0, 1], [0, 2], [0, 2], [1, 2], [1, 2]])
    assert isinstance(fit(votes), Strengths)
    assert isinstance(fit(votes, "ties dropped"), Refusal)


def test_a_term_that_predicts_each_answer_is_refused() -> None:
    votes = pairs([WIN, LOSS] * 20, left=np.arange(40) % 2 == 0)
    found = fit(votes, "davidson", ("position",))
    assert isinstance(found, Refusal)
    assert found.reason == "not converged"
