"""Dawid and Skene against crowd-kit, and the list of unreliable people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import DawidSkene as Oracle

from rlalign.feedback.statistics.agreement import Ratings
from rlalign.feedback.statistics.judgments import WIN
from rlalign.feedback.statistics.reliability import (
    STRENGTH,
    chance,
    dawid_skene,
    gold_accuracy,
    reliabilities,
    unreliable,
)
from tests.feedback.statistics.conftest import pairs

ACCURACY = np.array([0.9, 0.85, 0.8, 0.8, 0.7, 0.7, 0.6, 0.25])


def sample(
    seed: int, units: int = 300, accuracy: np.ndarray = ACCURACY, share: float = 0.6
) -> tuple[Ratings, np.ndarray]:
    """Return answers of people who are right with the given probabilities, and which of them are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, units)
    unit, person = np.nonzero(np.column_stack([np.ones(units), rng.random((units, len(accuracy) - 1)) < share]))
    right = rng.random(len(unit)) < accuracy[person]
    value = np.where(right, truth[unit], (truth[unit] + rng.integers(1, 4, len(unit))) % 4)
    return Ratings(unit, unit, person, value, 4), right


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # of crowd-kit's use of pandas
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_the_fit_is_that_of_crowdkit(seed: int) -> None:
    """These three samples converge in 50 plain steps; crowd-kit takes 10 ms for a step."""
    ratings, _ = sample(seed)
    found = dawid_skene(ratings, tolerance=1e-13)
    table = pd.DataFrame({"task": ratings.unit, "worker": ratings.person, "label": ratings.value})
    oracle = Oracle(n_iter=120, tol=1e-13).fit(table)
    labels = [0, 1, 2, 3]
    np.testing.assert_allclose(found.posterior, oracle.probas_.sort_index()[labels], atol=2e-5)
    np.testing.assert_allclose(found.prior, oracle.priors_.sort_index()[labels], atol=1e-6)
    errors = oracle.errors_.sort_index()[labels].to_numpy().reshape(len(ACCURACY), 4, 4)  # person, answer, truth
    np.testing.assert_allclose(found.confusion.transpose(0, 2, 1), errors, atol=2e-5)
    assert found.converged


@pytest.mark.parametrize("seed", [1, 3])
def test_acceleration_leads_to_the_maximum_of_plain_steps(seed: int) -> None:
    ratings, _ = sample(seed, units=150)
    counts = ratings.counts()
    posterior = counts / counts.sum(1, keepdims=True)
    for _ in range(400):
        confusion = np.zeros((len(ACCURACY), 4, 4))
        np.add.at(confusion, (ratings.person, ratings.value), posterior[ratings.unit])  # person, answer, truth
        confusion = np.maximum(confusion, 1e-10)
        confusion /= confusion.sum(1, keepdims=True)
        logits = np.tile(np.log(posterior.mean(0)), (150, 1))
        np.add.at(logits, ratings.unit, np.log(confusion[ratings.person, ratings.value]))
        posterior = np.exp(logits - logits.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
    found = dawid_skene(ratings, tolerance=1e-13)
    np.testing.assert_allclose(found.posterior, posterior, atol=1e-4)


def test_reliabilities_cover_the_accuracy() -> None:
    """40 studies of 8 people: 320 intervals of nominal 95 %; below 90 % are 4 standard errors, 0.003 % by chance."""
    hits = 0
    for seed in range(40):
        ratings, _ = sample(seed, units=200)
        found = reliabilities(ratings, dawid_skene(ratings, strength=STRENGTH))
        for person, estimate in found.items():
            assert estimate.votes == (ratings.person == person).sum()
            hits += estimate.low <= ACCURACY[person] <= estimate.high
    assert hits / (40 * len(ACCURACY)) > 0.9


@pytest.mark.parametrize(("people", "units", "votes"), [(6, 150, 3), (10, 300, 3), (12, 200, 2)])
def test_reliabilities_are_covered_with_few_votes_per_item(people: int, units: int, votes: int) -> None:
    """20 studies with accuracies from 0.6 to 0.9: 120 intervals or more of nominal 95 %; the limit is 3.5 errors below.

    Maximum likelihood with the others' matrices given covers 63 to 84 %, and its mean is too low by 0.06.
    """
    accuracy = np.linspace(0.6, 0.9, people)
    error, hits, total = 0.0, 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.choice(3, units, p=[0.4, 0.2, 0.4])
        unit = np.repeat(np.arange(units), votes)
        person = np.argsort(rng.random((units, people)), 1)[:, :votes].ravel()
        right = rng.random(len(unit)) < accuracy[person]
        value = np.where(right, truth[unit], (truth[unit] + rng.integers(1, 3, len(unit))) % 3)
        ratings = Ratings(unit, unit, person, value, 4)
        for at, estimate in reliabilities(ratings, dawid_skene(ratings, strength=STRENGTH)).items():
            hits += estimate.low <= accuracy[at] <= estimate.high
            error += estimate.value - accuracy[at]
            total += 1
    assert hits / total > 0.88, (hits / total, error / total)
    assert abs(error / total) < 0.03


def test_the_careless_person_is_listed_and_nobody_else() -> None:
    for seed in range(10):
        ratings, _ = sample(seed)
        fitted = dawid_skene(ratings, strength=STRENGTH)
        assert list(unreliable({}, reliabilities(ratings, fitted), chance(ratings, fitted))) == [7]


def test_equally_good_people_are_not_listed() -> None:
    listed = 0
    for seed in range(10):
        ratings, _ = sample(seed, accuracy=np.full(8, 0.7))
        fitted = dawid_skene(ratings, strength=STRENGTH)
        listed += len(unreliable({}, reliabilities(ratings, fitted), chance(ratings, fitted)))
    assert listed == 0


def test_gold_items_decide_from_five_answers() -> None:
    person = np.repeat([0, 1, 2], [10, 10, 4])
    right = np.concatenate([np.ones(9), [0], np.ones(2), np.zeros(8), np.zeros(4)]).astype(int)
    votes = dataclasses.replace(pairs([WIN] * 24, person=person), gold=np.ones(24, bool), right=right)
    gold = gold_accuracy(votes)
    assert {p: e.value for p, e in gold.items()} == {0: 0.9, 1: 0.2, 2: 0.0}
    assert list(unreliable(gold, {}, float("nan"))) == [1]  # four answers of person 2 are too few
    assert gold_accuracy(votes.take(~votes.gold)) == {}


def test_equal_sets_of_answers_are_one_row() -> None:
    """Two people and four answers make 16 rows at most; the fit is that of each unit alone, in any order."""
    ratings, _ = sample(4, units=400, accuracy=np.array([0.8, 0.7, 0.9]), share=1.0)
    order = np.random.default_rng(0).permutation(400)
    renamed = dataclasses.replace(ratings, unit=order[ratings.unit])
    one, other = dawid_skene(ratings), dawid_skene(renamed)
    np.testing.assert_allclose(one.posterior, other.posterior[order], atol=1e-9)
    assert one.posterior.shape == (400, 4)
