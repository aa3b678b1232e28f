"""Training of a linear reward model: Bradley-Terry on differences of TF-IDF features, or ridge regression on ratings.

    preferences:  min_w  Σ log(1 + exp(-(w · (x_chosen - x_rejected) - margin))) + λ/2 |w|²
    ratings:      min_w  Σ ((rating - mean) / sd - w · x)² / 2 + λ/2 |w|²

Source: Bradley and Terry (1952), Biometrika 39:324-345. Both have one minimum, so equal data gives equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.reward_models.data import Pair, Rating
from rlalign.reward_models.settings import Settings
from rlalign.rewards.reward_model.linear import EXTRA, LinearScorer, features, vectorizer
from rlalign.rewards.reward_model.manifest import Manifest
from rlalign.rewards.reward_model.probes import PROBES
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.types import FloatArray


def train_linear(
    rows: Sequence[Pair] | Sequence[Rating], settings: Settings, seed: int, *, resample: bool = False
) -> tuple[LinearScorer, Manifest]:
    """Return a linear model of pairs or ratings, and its description.

    Args:
        rows: pairs, or ratings for the objective "ratings".
        settings: of the training.
        seed: of the resampling.
        resample: train on a bootstrap sample of the groups of prompts, for a member of an ensemble: the minimum is
            unique, so that members differ by their data alone.

    Raises:
        UserError: the completions have no words.
    """
    import random

    held: list[Any] = list(rows)
    if resample:
        groups = sorted({row.group for row in held})
        rng = random.Random(seed)
        by_group: dict[int, list[Any]] = {}
        for row in held:
            by_group.setdefault(row.group, []).append(row)
        held = [row for _ in groups for row in by_group[rng.choice(groups)]]
    samples: list[Sample] = []
    for row in held:
        samples += [row.chosen, row.rejected] if isinstance(row, Pair) else [row.sample]
    fitted = _vocabulary(samples)
    vocabulary = tuple(map(str, fitted.get_feature_names_out()))
    x = features(samples, fitted)
    mean, spread = 0.0, 1.0
    if settings.objective == "ratings":
        points = np.array([row.points for row in held], np.float64)
        mean, spread = float(points.mean()), float(points.std()) or 1.0
        weights = fit_ridge(x, (points - mean) / spread, settings.regularization)
    else:
        margins = np.array([_margin(row) for row in held]) if settings.margin else np.zeros(len(held))
        weights = fit_bradley_terry(x[0::2] - x[1::2], margins, settings.regularization)
    scorer = LinearScorer(vocabulary, np.asarray(fitted.idf_, np.float64), weights)
    scores = x @ weights
    manifest = Manifest(
        "linear", "text", settings.objective, tuple(map(float, scorer.scores(PROBES))), float(scores.mean()),
        float(scores.std()) or 1.0, rating_mean=mean, rating_spread=spread,
    )  # fmt: skip
    return scorer, manifest


def _vocabulary(samples: Sequence[Sample]) -> Any:
    from rlalign.rewards.text import text_of

    fitted = vectorizer(min_count=2 if len(samples) >= 20 else 1)
    try:
        return fitted.fit([text_of(sample.completion) for sample in samples])
    except ValueError as error:  # an empty vocabulary
        raise UserError(
            f"expected completions with words, got {len(samples)} without a common one; add data"
        ) from error


def _margin(row: Pair) -> float:
    if row.margin is None:
        raise UserError(
            f"{row.place or 'a pair'}: expected a margin, got none; use data with the column margin, a study by "
            "majority, or leave --margin out"
        )
    return row.margin


def fit_bradley_terry(differences: Any, margins: FloatArray, regularization: float) -> FloatArray:
    """Return the weights of a Bradley-Terry model, [F]; see the module for the equation.

    Args:
        differences: features of the chosen minus those of the rejected, [N, F], sparse or dense.
        margins: subtracted from the difference of the scores, [N].
        regularization: λ.
    """
    from scipy import optimize, special

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        logits = differences @ weights - margins
        value = float(np.logaddexp(0, -logits).sum()) + regularization / 2 * float(weights @ weights)
        gradient = -(differences.T @ special.expit(-logits)) + regularization * weights
        return value, np.asarray(gradient)

    start = np.zeros(differences.shape[1])
    result = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2_000, "ftol": 1e-14, "gtol": 1e-8}
    )
    return np.asarray(result.x, np.float64)


def fit_ridge(x: Any, targets: FloatArray, regularization: float) -> FloatArray:
    """Return the weights of ridge regression without intercept, [F]; see the module for the equation.

    Args:
        x: features, [N, F], sparse or dense.
        targets: [N].
        regularization: λ.
    """
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=regularization, fit_intercept=False, solver="lsqr", tol=1e-10, max_iter=10_000)
    return np.asarray(ridge.fit(x, targets).coef_, np.float64)


__all__ = ["EXTRA", "fit_bradley_terry", "fit_ridge", "train_linear"]
