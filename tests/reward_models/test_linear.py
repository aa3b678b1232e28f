"""Training of linear models, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.reward_models import Settings
from rlalign.reward_models.data import Rating, pairs_of
from rlalign.reward_models.linear import fit_bradley_terry, fit_ridge, train_linear
from rlalign.rewards.reward_model.rendering import Sample
from tests.reward_models.tiny import notes


def made_pairs(number, **settings):
    from rlalign.preferences.pairs import preference_of

    return pairs_of(preference_of(row) for row in notes(number, **settings))


def test_bradley_terry_is_logistic_regression_on_mirrored_differences():
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(60, 5)) + 0.3
    weights = fit_bradley_terry(x, np.zeros(60), 2.0)
    # mirrored rows count twice, so that the penalty is halved by C = 2 / λ
    oracle = LogisticRegression(fit_intercept=False, C=1 / (2 * 2.0), tol=1e-10, max_iter=1000)
    oracle.fit(np.concatenate([x, -x]), np.repeat([1, 0], 60))
    assert weights == pytest.approx(oracle.coef_[0], abs=1e-4)


def test_margin_shifts_the_differences():
    """The gradient Σ (1 - σ(w x - m)) x = λ w holds at the minimum."""
    rng = np.random.default_rng(1)
    x, margins = rng.normal(size=(40, 3)) + 0.5, rng.random(40)
    weights = fit_bradley_terry(x, margins, 1.0)
    residual = 1 / (1 + np.exp(x @ weights - margins))
    assert x.T @ residual == pytest.approx(weights, abs=1e-4)
    assert not np.allclose(weights, fit_bradley_terry(x, np.zeros(40), 1.0), atol=1e-2)


def test_ridge_solves_the_normal_equations():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    assert fit_ridge(x, y, 3.0) == pytest.approx(np.linalg.solve(x.T @ x + 3 * np.eye(4), x.T @ y), abs=1e-6)


def test_training_is_deterministic_and_learns_the_good_words():
    rows = made_pairs(200)
    scorer, manifest = train_linear(rows, Settings(model="linear"), 0)
    again, _ = train_linear(rows, Settings(model="linear"), 7)
    assert (scorer.weights == again.weights).all()
    good, bad = scorer.scores([Sample("p", "clear kind useful"), Sample("p", "rude vague wrong")])
    assert good > bad + manifest.spread


def test_ratings_are_in_points(tmp_path):
    rows = [Rating(Sample("p", text), points, i) for i, (text, points) in enumerate([("good", 5.0), ("bad", 1.0)] * 20)]
    scorer, manifest = train_linear(rows, Settings(model="linear", objective="ratings", regularization=1e-6), 0)
    predicted = manifest.rating_mean + manifest.rating_spread * scorer.scores([Sample("p", "good"), Sample("p", "bad")])
    assert predicted == pytest.approx([5.0, 1.0], abs=1e-3)


def test_completions_without_words_are_refused():
    rows = [Rating(Sample("p", "..."), 1.0, i) for i in range(3)]
    with pytest.raises(UserError, match="expected completions with words"):
        train_linear(rows, Settings(model="linear", objective="ratings"), 0)
