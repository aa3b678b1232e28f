"""Agreement against krippendorff, evalica and scikit-learn, and by hand."""

from __future__ import annotations

import dataclasses
import math

import evalica
import krippendorff
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from rlalign.feedback.statistics.agreement import (
    Metric,
    Ratings,
    alpha,
    cohen_kappas,
    fleiss_kappa,
    of_votes,
    percent_agreement,
    self_consistency,
)
from rlalign.feedback.statistics.judgments import BAD, LOSS, SKIP, TIE, WIN
from tests.feedback.statistics.conftest import pairs


def sample(
    seed: int, units: int = 60, people: int = 6, categories: int = 4, skew: bool = False
) -> tuple[Ratings, np.ndarray]:
    """Return ratings with missing values, and the same as a matrix [people, units] with NaN."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, categories, units)
    unit, person = np.nonzero(rng.random((units, people)) < 0.5)
    noise = rng.integers(0, 2 if skew else categories, len(unit))
    value = np.where(rng.random(len(unit)) < 0.6, truth[unit], noise)
    matrix = np.full((people, units), np.nan)
    matrix[person, unit] = value
    return Ratings(unit, unit, person, value, categories), matrix


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_that_of_krippendorff_and_evalica(metric: Metric, seed: int) -> None:
    ratings, matrix = sample(seed, skew=seed % 2 == 1)
    found = alpha(ratings, metric)
    assert found.value == pytest.approx(
        krippendorff.alpha(reliability_data=matrix, level_of_measurement=metric, value_domain=range(4)), abs=1e-12
    )
    assert found.value == pytest.approx(evalica.alpha(pd.DataFrame(matrix), distance=metric).alpha, abs=1e-12)
    assert found.low < found.value < found.high


def test_the_bootstrap_over_patterns_is_the_bootstrap_over_prompts() -> None:
    ratings, matrix = sample(0, units=80)
    # one draw after the other; 2,000 draws, so a quantile has an error of about 0.005
    rng = np.random.default_rng(1)
    draws = [
        krippendorff.alpha(
            reliability_data=matrix[:, rng.integers(0, 80, 80)], level_of_measurement="nominal", value_domain=range(4)
        )
        for _ in range(2000)
    ]
    # units with fewer than two answers carry nothing, but are drawn as well in this loop
    low, high = np.quantile(draws, [0.025, 0.975])
    found = alpha(ratings, "nominal")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_items_of_a_prompt_are_drawn_together() -> None:
    ratings, _ = sample(0, units=200, people=4)
    copied = dataclasses.replace(
        ratings,
        unit=np.concatenate([ratings.unit, ratings.unit + 200]),
        cluster=np.concatenate([ratings.cluster, ratings.cluster]),
        person=np.concatenate([ratings.person, ratings.person]),
        value=np.concatenate([ratings.value, ratings.value]),
    )
    once, twice = alpha(ratings, "nominal"), alpha(copied, "nominal")
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.1)
    assert (twice.prompts, twice.votes) == (once.prompts, 2 * once.votes)


def test_fleiss_example_of_1971() -> None:
    """The table of 30 patients has kappa 0.430; this is Wikipedia's smaller one, of 14 raters with kappa 0.210."""
    table = np.array(
        [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
         [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    )  # fmt: skip
    unit = np.repeat(np.arange(10), 14)
    value = np.concatenate([np.repeat(np.arange(5), line) for line in table])
    person = np.tile(np.arange(14), 10)
    found = fleiss_kappa(Ratings(unit, unit, person, value, 5))
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert percent_agreement(Ratings(unit, unit, person, value, 5)).value == pytest.approx(0.378, abs=5e-4)


def test_cohens_kappa_is_that_of_scikit_learn() -> None:
    ratings, matrix = sample(3, units=100)
    listed, mean = cohen_kappas(ratings)
    assert len(listed) == 15
    expected = []
    for pair in listed:
        both = ~np.isnan(matrix[pair.first]) & ~np.isnan(matrix[pair.second])
        assert pair.items == both.sum()
        expected.append(cohen_kappa_score(matrix[pair.first][both], matrix[pair.second][both]))
        assert pair.kappa == pytest.approx(expected[-1])
    assert mean is not None
    assert mean.panel.value == pytest.approx(np.average(expected, weights=[p.items for p in listed]))


def test_the_error_of_the_mean_kappa_is_that_of_a_jackknife() -> None:
    ratings, _ = sample(5, units=300, people=3)
    _, mean = cohen_kappas(ratings)
    assert mean is not None
    left_out = []
    for cluster in np.unique(ratings.cluster):
        keep = ratings.cluster != cluster
        part = Ratings(*(getattr(ratings, n)[keep] for n in ("unit", "cluster", "person", "value")), 4)
        left_out.append(cohen_kappas(part)[1].panel.value)  # type: ignore[union-attr]
    g = len(left_out)
    jackknife = math.sqrt((g - 1) / g * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
    assert mean.panel.se == pytest.approx(jackknife, rel=0.05)


def with_accuracy(rng: np.random.Generator, units: int, accuracy: np.ndarray) -> Ratings:
    """Return answers of all people to all units of two equally frequent truths."""
    unit, person = np.repeat(np.arange(units), len(accuracy)), np.tile(np.arange(len(accuracy)), units)
    truth = rng.integers(0, 2, units)[unit]
    right = rng.random(len(unit)) < accuracy[person]
    return Ratings(unit, unit, person, np.where(right, truth, 1 - truth), 2)


def test_the_variance_between_people_is_that_of_a_jackknife() -> None:
    """20,000 prompts leave no noise but that of the people."""
    ratings = with_accuracy(np.random.default_rng(0), 20_000, np.array([0.6, 0.7, 0.8, 0.9, 0.95]))
    listed, mean = cohen_kappas(ratings)
    assert mean is not None
    assert mean.population is not None
    left_out = [np.mean([k.kappa for k in listed if a not in (k.first, k.second)]) for a in range(5)]
    jackknife = 4 / 5 * sum((value - mean.panel.value) ** 2 for value in left_out)
    assert mean.population.se**2 == pytest.approx(float(jackknife), rel=0.01)
    assert mean.panel.se < 0.1 * mean.population.se


@pytest.mark.parametrize("people", [5, 10])
def test_the_mean_kappa_of_the_population_is_covered(people: int) -> None:
    """Accuracies are uniform between 0.55 and 0.95: the mean kappa is 0.25.

    300 studies; coverage below 0.9 has a false-alarm rate of 0.02 % for 95 %. Without the variance between people it
    is about 0.4.
    """
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        _, mean = cohen_kappas(with_accuracy(rng, 100, rng.uniform(0.55, 0.95, people)))
        assert mean is not None
        assert mean.population is not None
        hits += mean.population.low <= 0.25 <= mean.population.high
    assert hits / 300 >= 0.9


def test_two_people_have_no_mean_kappa_of_a_population() -> None:
    ratings, _ = sample(6, units=60, people=2)
    _, mean = cohen_kappas(ratings)
    assert mean is not None
    assert mean.panel.low < mean.panel.high
    assert mean.population is not None
    assert math.isnan(mean.population.low)


def test_few_prompts_have_no_bootstrap_interval() -> None:
    rng = np.random.default_rng(0)
    unit, value = np.repeat(np.arange(40), 2), rng.integers(0, 3, 80)
    person = np.tile([0, 1], 40)
    for clusters, exists in ((2, False), (7, False), (8, True)):
        found = alpha(Ratings(unit, unit % clusters, person, value, 4), "nominal")
        assert math.isfinite(found.value)
        assert math.isfinite(found.low) == math.isfinite(found.detectable) == exists


def test_perfect_agreement_and_single_answers_have_no_interval() -> None:
    unit = np.repeat(np.arange(20), 2)
    same = Ratings(unit, unit, np.tile([0, 1], 20), unit % 3, 4)
    found = alpha(same, "nominal")
    assert found.value == 1
    assert math.isnan(found.low)
    alone = Ratings(np.arange(5), np.arange(5), np.zeros(5, int), np.arange(5) % 4, 4)
    assert math.isnan(alpha(alone, "ordinal").value)
    assert cohen_kappas(alone) == ([], None)
    constant = Ratings(unit, unit, np.tile([0, 1], 20), np.zeros(40, int), 4)
    assert math.isnan(alpha(constant, "nominal").value)
    assert cohen_kappas(constant)[1] is None


def test_only_counted_votes_enter() -> None:
    group = np.repeat(np.arange(6), 2)
    votes = pairs([WIN, LOSS] * 6, group=group, person=np.tile([0, 1], 6))
    marked = dataclasses.replace(
        votes, gold=group == 0, repeat_of=np.where(group == 1, 9, -1), outcome=np.where(group == 2, SKIP, votes.outcome)
    )
    ratings = of_votes(marked, values=marked.outcome, keep=marked.outcome <= BAD, categories=4)
    assert len(ratings.unit) == 6
    assert set(ratings.cluster.tolist()) == {0, 1, 2}


def test_self_consistency() -> None:
    """Six repetitions: four equal answers; the two of swapped sides differ, since this person takes the left side."""
    first = pairs([WIN, LOSS, TIE, WIN, WIN, WIN], left=True)
    second = dataclasses.replace(
        pairs([WIN, LOSS, TIE, WIN, LOSS, LOSS], left=np.array([1, 1, 1, 1, 0, 0], bool)),
        item=np.arange(6) + 100, repeat_of=np.arange(6),
    )  # fmt: skip
    votes = dataclasses.replace(
        first,
        **{
            f.name: np.concatenate([getattr(first, f.name), getattr(second, f.name)])
            for f in dataclasses.fields(first)
            if isinstance(getattr(first, f.name), np.ndarray)
        },
    )
    found = self_consistency(votes)
    assert {name: round(e.panel.value, 3) for name, e in found.items()} == {
        "all": 0.667, "same sides": 1.0, "sides swapped": 0.0
    }  # fmt: skip
    assert found["all"].panel.votes == 6
    assert self_consistency(votes.take(votes.repeat_of < 0)) == {}
    # the first vote of a repetition was withdrawn
    assert self_consistency(votes.take(np.arange(12) != 0))["all"].panel.votes == 5
