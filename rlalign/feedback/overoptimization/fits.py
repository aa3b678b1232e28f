"""The forms of reward against KL of Gao et al., their fits, and the KL at which the reward turns. Pure functions.

With d the square root of the KL to the initial policy and R(0) = 0 (Gao et al. 2022, 2210.10760, equations 1 and 2)::

    best-of-n                R(d) = d (α - β d)         largest at d = α / 2β
    reinforcement learning   R(d) = d (α - β log d)     largest at d = exp(α/β - 1)

Both are linear in α and β, so the fit is linear least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlalign.errors import UserError
from rlalign.types import FloatArray

Form = Literal["best_of_n", "rl"]
Outcome = Literal["turned", "fell from the start", "did not turn in range"]

LEAST_POINTS = 3
"""Points with a KL above 0 that a fit of two parameters needs, so that its residual says something."""
REPLICATES = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Fit:
    """A fit of one form to one reward.

    Attributes:
        form: best_of_n or rl.
        alpha: slope of the reward per square root of a nat: at d = 0 for best_of_n, at d = 1/e for rl.
        beta: the strength of the bend; at most 0: the form has no largest value.
        r2: share of the variance of the rewards that the fit explains; NaN if they do not vary.
        points: number of points.
    """

    form: Form
    alpha: float
    beta: float
    r2: float
    points: int


@dataclass(frozen=True)
class Turn:
    """The point at which a reward is largest.

    Attributes:
        outcome: "turned": the fit has its largest value within the range of the data; "fell from the start": at
            the initial policy, or below all data; "did not turn in range": beyond all data, or nowhere.
        d: square root of the KL at the largest value; infinite for a form without one.
        low, high: 95 % percentile interval of d over resampled seeds; NaN for fewer than two seeds. `high` is infinite
            if more than 2.5 % of the resampled fits do not turn in range.
        share: share of the resampled fits that turn in range; NaN for fewer than two seeds.
    """

    outcome: Outcome
    d: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class SeedFit:
    """A fit to all seeds, with intervals from resampled seeds.

    Attributes:
        fit: of all points.
        alpha, beta: 95 % percentile intervals; NaN for fewer than two seeds.
        turn: the turning point.
        replicates: float [B, 2], α and β of the resampled seeds; B is 0 for fewer than two seeds.
    """

    fit: Fit
    alpha: tuple[float, float]
    beta: tuple[float, float]
    turn: Turn
    replicates: FloatArray


def design(form: Form, d: FloatArray) -> FloatArray:
    """Return the columns of α and β at each d, float [K, 2]; a row of zeros at d = 0, where R is 0.

    Args:
        form: best_of_n or rl.
        d: square roots of the KL, at least 0.
    """
    if form == "best_of_n":
        return np.stack([d, -d * d], axis=1)
    positive = np.where(d > 0, d, 1.0)  # d log d tends to 0
    return np.stack([d, -d * np.log(positive)], axis=1)


def predict(form: Form, alpha: float, beta: float, d: FloatArray) -> FloatArray:
    """Return R(d) of a form.

    Example:
        >>> predict("best_of_n", 2.0, 0.5, np.array([0.0, 2.0, 4.0])).tolist()
        [0.0, 2.0, 0.0]
    """
    values: FloatArray = design(form, np.asarray(d, dtype=float)) @ np.array([alpha, beta])
    return values


def fit(form: Form, d: FloatArray, reward: FloatArray) -> Fit:
    """Fit α and β by least squares.

    All points have the same weight. Points at d = 0 say nothing, because R(0) = 0, and are left out.

    Args:
        form: best_of_n or rl.
        d: square roots of the KL, float [K].
        reward: reward minus that of the initial policy, float [K].

    Raises:
        UserError: fewer than 3 points have a KL above 0, or fewer than 2 different ones.
    """
    from scipy.optimize import lsq_linear

    usable = np.isfinite(d) & np.isfinite(reward) & (d > 0)
    x, y = d[usable], reward[usable]
    if len(x) < LEAST_POINTS or len(np.unique(x)) < 2:
        raise UserError(
            f"expected at least {LEAST_POINTS} evaluations with a KL above 0 for a fit, got {len(x)}; use "
            "--evaluation.every with a smaller number, more steps, or a larger --best-of"
        )
    columns = design(form, x)
    alpha, beta = (float(value) for value in lsq_linear(columns, y).x)
    residual = y - columns @ np.array([alpha, beta])
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1.0 - float((residual**2).sum()) / spread if spread > 0 else math.nan
    return Fit(form, alpha, beta, r2, len(x))


def turning_point(form: Form, alpha: float, beta: float) -> float:
    """Return the d >= 0 at which R(d) is largest; infinite if R has no largest value.

    Args:
        form: best_of_n: max(α / 2β, 0); rl: exp(α/β - 1).
        alpha, beta: parameters of the form.

    Example:
        >>> turning_point("best_of_n", 2.0, 0.5), turning_point("rl", 1.0, 1.0), turning_point("rl", 1.0, -0.1)
        (2.0, 1.0, inf)
    """
    if beta <= 0:
        return math.inf
    if form == "best_of_n":
        return max(alpha / (2 * beta), 0.0)
    exponent = alpha / beta - 1
    return math.exp(exponent) if exponent < 700 else math.inf  # exp overflows at 709


def fit_seeds(
    form: Form, curves: Sequence[tuple[FloatArray, FloatArray]], *, replicates: int = REPLICATES, seed: int = 0
) -> SeedFit:
    """Fit a form to the points of all seeds, and resample whole seeds for the intervals.

    The points of one seed depend on each other, so the seed is the unit of the bootstrap (Davison and Hinkley 1997,
    section 3.8). Of S seeds, S are drawn with replacement, and the form is fitted to their points. A replicate that
    cannot be fitted (all its points at one KL) is drawn again. The intervals are percentiles, which are too narrow for
    few seeds: with five, they cover less than 95 %.

    Args:
        form: best_of_n or rl.
        curves: per seed, d float [K] and reward minus that of the initial policy float [K].
        replicates: number of resampled sets of seeds.
        seed: of the resampling.

    Raises:
        UserError: there are too few points for a fit.
    """
    d = np.concatenate([x for x, _ in curves])
    reward = np.concatenate([y for _, y in curves])
    whole = fit(form, d, reward)
    usable = np.isfinite(d) & np.isfinite(reward) & (d > 0)
    lowest, highest = float(d[usable].min()), float(d[usable].max())
    where = turning_point(form, whole.alpha, whole.beta)
    last = float(predict(form, whole.alpha, whole.beta, np.array([highest])).item())
    outcome = _outcome(where, lowest, highest, last)
    nothing = (math.nan, math.nan)
    if len(curves) < 2:
        turn = Turn(outcome, where, *nothing, math.nan)
        return SeedFit(whole, nothing, nothing, turn, np.zeros((0, 2)))
    drawn = _resample(form, curves, replicates, seed)
    turns = np.array([turning_point(form, alpha, beta) for alpha, beta in drawn])
    in_range = turns <= highest
    low, high = (_percentile(np.where(in_range, turns, math.inf), q) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    alpha_interval, beta_interval = (_interval(column) for column in drawn.T)
    turn = Turn(outcome, where, low, high, float(in_range.mean()))
    return SeedFit(whole, alpha_interval, beta_interval, turn, drawn)


def band(result: SeedFit, d: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the pointwise 95 % percentile band of a fit at each d; NaN for fewer than two seeds."""
    if not len(result.replicates):
        missing = np.full(len(d), math.nan)
        return missing, missing
    values = design(result.fit.form, d) @ result.replicates.T  # [K, B]
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=1)
    return low, high


def _resample(form: Form, curves: Sequence[tuple[FloatArray, FloatArray]], replicates: int, seed: int) -> FloatArray:
    """Return α and β of resampled seeds, float [B, 2].

    The normal equations of a set of seeds are the sums of those of its seeds, so that no fit reads the points again.
    """
    products = np.zeros((len(curves), 2, 2))
    moments = np.zeros((len(curves), 2))
    for i, (d, reward) in enumerate(curves):
        usable = np.isfinite(d) & np.isfinite(reward) & (d > 0)
        columns = design(form, d[usable])
        products[i] = columns.T @ columns
        moments[i] = columns.T @ reward[usable]
    rng = np.random.default_rng(seed)
    rows: list[FloatArray] = []
    for _ in range(20 * replicates):
        if len(rows) == replicates:
            break
        chosen = rng.integers(len(curves), size=len(curves))
        matrix = products[chosen].sum(0)
        if np.linalg.cond(matrix) < 1e12:
            rows.append(np.linalg.solve(matrix, moments[chosen].sum(0)))
    if len(rows) < replicates:
        raise UserError("expected seeds with several different KLs each, got almost none; use more evaluations per run")
    return np.array(rows)


def _outcome(d: float, lowest: float, highest: float, last: float) -> Outcome:
    """Return the outcome of a fit with its largest value at d and the value `last` at the end of the range."""
    if d < lowest or (d > highest and last < 0):  # within the range, R(0) = 0 is then the largest value
        return "fell from the start"
    return "turned" if d <= highest else "did not turn in range"


def _interval(values: FloatArray) -> tuple[float, float]:
    return _percentile(values, (1 - _LEVEL) / 2), _percentile(values, (1 + _LEVEL) / 2)


def _percentile(values: FloatArray, q: float) -> float:
    """Return a percentile that is one of the values: infinite ones must not be interpolated."""
    return float(np.quantile(values, q, method="higher" if q > 0.5 else "lower"))
