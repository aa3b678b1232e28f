"""The fits: parameters recovered, scipy's own fit, turning points by search, and what the bootstrap may claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from rlalign.errors import UserError
from rlalign.feedback.overoptimization.fits import Form, band, fit, fit_seeds, predict, turning_point
from rlalign.types import FloatArray

FORMS: tuple[Form, ...] = ("best_of_n", "rl")


def noisy(form: Form, alpha: float, beta: float, seed: int, *, until: float = 4.0, sd: float = 0.05) -> tuple[
    FloatArray, FloatArray
]:  # fmt: skip
    rng = np.random.default_rng(seed)
    d = np.sort(rng.uniform(0.2, until, 12))
    d[-1] = until
    return d, predict(form, alpha, beta, d) + rng.normal(0, sd, 12)


@pytest.mark.parametrize("form", FORMS)
def test_the_fit_is_that_of_curve_fit(form: Form) -> None:
    d, reward = noisy(form, 1.3, 0.4, 3, sd=0.3)
    result = fit(form, d, reward)
    expected, _ = optimize.curve_fit(lambda x, a, b: predict(form, a, b, x), d, reward)
    assert [result.alpha, result.beta] == pytest.approx(expected, rel=1e-5)
    residual = reward - predict(form, result.alpha, result.beta, d)
    assert result.r2 == pytest.approx(1 - residual.var() / reward.var() - residual.mean() ** 2 / reward.var())
    assert result.points == 12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.3, 0.4), (0.2, 0.9), (3.0, 1.5)])
def test_the_turning_point_is_where_the_form_is_largest(form: Form, alpha: float, beta: float) -> None:
    d = np.linspace(0, 20, 2_000_001)
    largest = float(d[predict(form, alpha, beta, d).argmax()])
    assert turning_point(form, alpha, beta) == pytest.approx(largest, abs=1e-4)


def test_forms_without_a_largest_value_turn_nowhere_and_falling_ones_at_the_start() -> None:
    assert turning_point("best_of_n", 1.0, 0.0) == math.inf
    assert turning_point("rl", 1.0, -0.5) == math.inf
    assert turning_point("rl", 1.0, 1e-9) == math.inf  # exp overflows
    assert turning_point("best_of_n", -1.0, 0.5) == 0.0
    assert predict("rl", 5.0, 2.0, np.array([0.0])).item() == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_points_at_the_start_and_missing_ones_change_nothing(form: Form) -> None:
    d, reward = noisy(form, 1.0, 0.3, 1)
    more = fit(form, np.array([0.0, math.nan, 1.0, *d]), np.array([7.0, 1.0, math.nan, *reward]))
    assert more == fit(form, d, reward)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UserError, match="at least 3"):
        fit("rl", np.array([0.0, 1.0, 2.0]), np.zeros(3))
    with pytest.raises(UserError, match="at least 3"):
        fit("rl", np.ones(5), np.zeros(5))


@pytest.mark.parametrize("form", FORMS)
def test_a_turn_in_range_is_found_with_an_interval_around_it(form: Form) -> None:
    alpha, beta = (2.0, 0.5) if form == "best_of_n" else (1.0, 0.8)
    true = turning_point(form, alpha, beta)
    result = fit_seeds(form, [noisy(form, alpha, beta, seed) for seed in range(6)], replicates=500)
    assert result.turn.outcome == "turned"
    assert result.turn.low <= result.turn.d <= result.turn.high
    assert result.turn.low - 0.2 < true < result.turn.high + 0.2
    assert result.turn.share == 1.0
    low, high = band(result, np.array([1.0, 2.0]))
    assert (low < high).all()


def test_a_turn_beyond_the_data_is_not_claimed() -> None:
    curves = [noisy("best_of_n", 2.0, 0.1, seed, until=2.0) for seed in range(5)]  # largest at d = 10
    turn = fit_seeds("best_of_n", curves, replicates=500).turn
    assert turn.outcome == "did not turn in range"
    assert (turn.high, turn.share) == (math.inf, 0.0)


def test_a_reward_that_falls_from_the_start_is_named() -> None:
    for beta in (0.3, -0.05):  # bends down, and bends up without coming back to 0
        curves = [noisy("best_of_n", -1.0, beta, seed) for seed in range(5)]
        assert fit_seeds("best_of_n", curves, replicates=200).turn.outcome == "fell from the start"


def test_seeds_that_disagree_leave_the_end_of_the_interval_open() -> None:
    curves = [noisy("best_of_n", 2.0, 0.35 if seed % 2 else 0.2, seed, until=4.0) for seed in range(4)]
    turn = fit_seeds("best_of_n", curves, replicates=500).turn
    assert turn.high == math.inf
    assert 0 < turn.share < 0.975


def test_one_seed_has_no_interval_and_equal_arguments_give_equal_results() -> None:
    one = fit_seeds("rl", [noisy("rl", 1.0, 0.8, 0)])
    assert math.isnan(one.turn.low)
    assert math.isnan(one.alpha[0])
    assert np.isnan(band(one, np.ones(2))[0]).all()
    curves = [noisy("rl", 1.0, 0.8, seed) for seed in range(3)]
    first, second = (fit_seeds("rl", curves, replicates=200, seed=4) for _ in range(2))
    assert np.array_equal(first.replicates, second.replicates)


def test_a_replicate_is_the_fit_to_the_points_of_its_seeds() -> None:
    """With one seed drawn twice, normal equations must give the fit to that seed."""
    curves = [noisy("rl", 1.0, 0.8, seed) for seed in range(2)]
    drawn = fit_seeds("rl", curves, replicates=50).replicates
    fits = [fit("rl", *curve) for curve in curves]
    fits.append(fit("rl", *(np.concatenate(parts) for parts in zip(*curves, strict=True))))
    for row in drawn:
        assert any(row == pytest.approx([f.alpha, f.beta], rel=1e-6) for f in fits)


def test_the_interval_covers_the_turning_point_about_as_often_as_stated() -> None:
    """With 12 seeds that differ in α, the interval covers in 85 to 99 % of 100 studies: a percentile bootstrap of 12.

    False alarms: below 1 in 1,000 if the coverage is 0.93 (binomial with 100 trials).
    """
    rng = np.random.default_rng(0)
    covered = 0
    for study in range(100):
        slopes = 2.0 + rng.normal(0, 0.1, 12)
        curves = [noisy("best_of_n", slope, 0.5, 1000 * study + seed) for seed, slope in enumerate(slopes)]
        turn = fit_seeds("best_of_n", curves, replicates=200, seed=study).turn
        covered += turn.low <= 2.0 <= turn.high
    assert 84 <= covered <= 99
