"""Likelihoods: probabilities, and derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN
from rlalign.feedback.statistics.likelihoods import Likelihood, bradley_terry, davidson, rao_kupper

X = np.linspace(-3, 3, 13)


@pytest.mark.parametrize("likelihood", [davidson, rao_kupper, bradley_terry])
@pytest.mark.parametrize("outcome", [LOSS, TIE, WIN])
@pytest.mark.parametrize("tie", [0.2, 1.3])
def test_derivatives(likelihood: Likelihood, outcome: int, tie: float) -> None:
    outcomes = np.full(len(X), outcome)
    step = 1e-5
    found = likelihood(X, tie, outcomes)
    up, down = likelihood(X + step, tie, outcomes), likelihood(X - step, tie, outcomes)
    more, less = likelihood(X, tie + step, outcomes), likelihood(X, tie - step, outcomes)

    def slope(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a - b) / (2 * step)

    np.testing.assert_allclose(found.x, slope(up.value, down.value), atol=1e-8)
    np.testing.assert_allclose(found.tie, slope(more.value, less.value), atol=1e-8)
    np.testing.assert_allclose(found.xx, slope(up.x, down.x), atol=1e-8)
    np.testing.assert_allclose(found.x_tie, slope(more.x, less.x), atol=1e-8)
    np.testing.assert_allclose(found.tie_tie, slope(more.tie, less.tie), atol=1e-8)


def test_probabilities_are_those_of_the_papers() -> None:
    p_i, p_j, extra = np.exp(0.8), np.exp(-0.3), 1.7
    x = np.full(1, 1.1)
    root = extra * np.sqrt(p_i * p_j)
    total = p_i + p_j + root
    for outcome, expected in ((WIN, p_i / total), (LOSS, p_j / total), (TIE, root / total)):
        value = davidson(x, np.log(extra), np.array([outcome])).value
        assert np.exp(value[0]) == pytest.approx(expected)
    for outcome, expected in (
        (WIN, p_i / (p_i + extra * p_j)),
        (LOSS, p_j / (p_j + extra * p_i)),
        (TIE, (extra**2 - 1) * p_i * p_j / ((p_i + extra * p_j) * (p_j + extra * p_i))),
    ):
        value = rao_kupper(x, np.log(extra), np.array([outcome])).value
        assert np.exp(value[0]) == pytest.approx(expected)


def test_rao_and_kupper_have_a_positive_parameter() -> None:
    assert np.isneginf(rao_kupper(X, 0.0, np.full(len(X), TIE)).value).all()
