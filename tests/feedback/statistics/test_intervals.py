"""The two intervals against loops over their definition, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlalign.feedback.statistics.estimate import Counts, Estimate, detectable, t_estimate, wilson, without_nan
from rlalign.feedback.statistics.intervals import covariance, dense, distinct, positive_part, rate


def crossed(seed: int, prompts: int, people: int, each: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(prompts), each), np.argsort(rng.random((prompts, people)), 1)[:, :each].ravel()


def by_definition(influence: np.ndarray, clusters: list[object]) -> np.ndarray:
    """Sum the outer products of the sums over clusters, one by one."""
    total = np.zeros((influence.shape[1],) * 2)
    unique = sorted(set(clusters))  # type: ignore[type-var]
    for cluster in unique:
        s = sum(influence[i] for i in range(len(influence)) if clusters[i] == cluster)
        total += np.outer(s, s)
    return total * len(unique) / (len(unique) - 1)


def test_covariances_are_their_definition() -> None:
    rng = np.random.default_rng(0)
    prompt, person = crossed(0, 12, 5)
    x = rng.normal(size=(len(prompt), 2)) + rng.normal(size=(5, 2))[person]
    found = covariance(x, prompt + 100, person)
    panel = by_definition(x, prompt.tolist())
    pairs = list(zip(prompt.tolist(), person.tolist(), strict=True))
    two_way = panel + by_definition(x, person.tolist()) - by_definition(x, pairs)
    assert np.linalg.eigvalsh(two_way).min() > 0  # no repair is needed here
    np.testing.assert_allclose(found.panel, panel)
    np.testing.assert_allclose(found.population, two_way)
    assert (found.panel_df, found.population_df) == (11, 4)
    assert found.counts == Counts(12, 5, 36)
    contrast = np.array([[1.0, -1.0]])
    np.testing.assert_allclose(found.of(contrast).panel, contrast @ panel @ contrast.T)


def test_a_negative_variance_is_repaired() -> None:
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1
    np.testing.assert_allclose(positive_part(matrix), 1.5 * np.ones((2, 2)))
    prompt, person = crossed(1, 40, 4)
    # each annotator gives the same sum, so the variance between annotators is estimated as negative
    y = np.array([float(i % 2) for i in range(len(prompt))])
    y[:] = [float((g + p) % 2) for g, p in zip(prompt, person, strict=True)]
    both = rate(y, prompt, person, method="")
    assert both.population is not None
    assert both.population.low <= both.panel.low + 1e-12
    assert both.population.high >= both.panel.high - 1e-12


def test_one_vote_per_prompt_is_students_interval_with_two_more_prompts() -> None:
    y = np.random.default_rng(2).integers(0, 3, 30) / 2
    found = rate(y, np.arange(30), np.zeros(30, int), method="win rate")
    more = np.concatenate([y, [0.0, 1.0]])
    low, high = stats.t.interval(0.95, 29, loc=more.mean(), scale=stats.sem(more))
    assert found.panel.value == pytest.approx(y.mean())
    assert (found.panel.low, found.panel.high) == pytest.approx((low, high))
    assert found.population is None  # one annotator
    assert found.headline == "panel"
    assert (found.panel.prompts, found.panel.people, found.panel.votes) == (30, 1, 30)


def test_a_win_of_each_vote_has_an_interval() -> None:
    prompt, person = crossed(3, 50, 6)
    found = rate(np.ones(150), prompt, person, method="")
    assert found.panel.value == found.panel.high == 1
    assert 0.9 < found.panel.low < 0.97  # rule of three for 50 prompts: 0.94
    assert found.population is not None
    assert found.population.low <= found.panel.low
    assert found.headline == "population"


def test_equal_weights_change_nothing_and_a_weight_of_two_is_the_vote_twice() -> None:
    rng = np.random.default_rng(4)
    prompt, person = crossed(4, 30, 5)
    y = rng.integers(0, 2, len(prompt)).astype(float)
    plain, equal = rate(y, prompt, person, method=""), rate(y, prompt, person, np.full(len(y), 7.0), method="")
    assert equal.main.low == pytest.approx(plain.main.low)
    weights = rng.integers(1, 3, len(y))
    weighted = rate(y, prompt, person, weights.astype(float), method="")
    twice = np.repeat(np.arange(len(y)), weights)
    copied = rate(y[twice], prompt[twice], person[twice], method="")
    assert weighted.panel.value == pytest.approx(copied.panel.value)
    assert weighted.panel.low == pytest.approx(copied.panel.low)


def test_one_prompt_gives_no_interval() -> None:
    found = rate(np.array([1.0, 0.0, 1.0]), np.zeros(3, int), np.arange(3), method="")
    assert math.isnan(found.panel.low)
    assert found.to_json()["panel"]["low"] is None


@pytest.mark.parametrize("people", [3, 10])
def test_coverage(people: int) -> None:
    """400 studies: 95 ± 3.5 points are 3.2 standard errors, so each assertion fails by chance in 0.2 % of seeds.

    An interval of independent votes covers about 0.5. benchmarks/feedback_coverage.py has more studies and designs.
    """
    rng = np.random.default_rng(people)
    nodes = rng.normal(size=200_000)
    panel_hits = population_hits = independent = 0
    prompts, studies = 60, 400

    def mean(lead: float, sd: float) -> float:
        return float((1 / (1 + np.exp(-lead - sd * nodes))).mean())

    truth = mean(0.3, math.hypot(1, 0.6))
    prompt = np.repeat(np.arange(prompts), 3)
    grid = np.linspace(-4, 4, 200)
    curve = [mean(x, 1.0) for x in grid]
    for _ in range(studies):
        person = np.argsort(rng.random((prompts, people)), 1)[:, :3].ravel()
        effect = 0.6 * rng.normal(size=people)
        x = 0.3 + rng.normal(size=prompts)[prompt] + effect[person]
        y = (rng.random(len(x)) < 1 / (1 + np.exp(-x))).astype(float)
        found = rate(y, prompt, person, method="")
        of_panel = float(np.interp(0.3 + effect, grid, curve).mean())
        assert found.population is not None
        panel_hits += found.panel.low <= of_panel <= found.panel.high
        population_hits += found.population.low <= truth <= found.population.high
        independent += abs(y.mean() - truth) < 1.96 * y.std() / math.sqrt(len(y))
    assert 0.915 < panel_hits / studies < 0.985
    assert 0.915 < population_hits / studies < 0.995
    assert independent / studies < 0.85


def test_p_values_agree_with_intervals() -> None:
    estimate = t_estimate(0.6, 0.05, 20, Counts(21, 3, 60), "", "")
    assert estimate.p(estimate.low) == pytest.approx(0.05)
    assert estimate.p(0.6) == pytest.approx(1.0)
    # detectable: the power of a t test at this true value, approximately
    found = detectable(0.05, 200)
    rng = np.random.default_rng(0)
    t = (found + 0.05 * rng.normal(size=100_000)) / (0.05 * np.sqrt(rng.chisquare(200, 100_000) / 200))
    assert (t > stats.t.ppf(0.975, 200)).mean() == pytest.approx(0.8, abs=0.01)


def test_wilson() -> None:
    for right, number in ((0, 5), (3, 10), (50, 50)):
        expected = stats.binomtest(right, number).proportion_ci(method="wilson")
        assert wilson(right, number) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_json_has_no_nan() -> None:
    empty = Estimate(math.nan, math.nan, math.inf, 0.0, "m", "s", 1, 2, 3).to_json()
    assert (empty["value"], empty["high"], empty["votes"]) == (None, None, 3)
    assert without_nan({"a": [math.nan, {"b": (1.0, math.inf)}]}) == {"a": [None, {"b": [1.0, None]}]}


def test_dense_numbers() -> None:
    for values in ([5, -1, 5, 9], [10**12, 3, 10**12]):
        codes, number = dense(np.array(values))
        assert number == len(set(values)) == distinct(np.array(values))
        assert [sorted(set(values))[c] for c in codes] == values
    assert dense(np.zeros(0, int))[1] == 0
