"""How well scores predict preferences: accuracy, Brier score, log loss, calibration, correlations, by subset.

A pair counts once, never also mirrored. P(chosen over rejected) = sigmoid(s_chosen - s_rejected). Equal scores are
wrong: a model that cannot tell does not predict. All intervals are clustered by groups of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rlalign.feedback.statistics.estimate import Counts, Estimate, t_estimate, wilson, without_nan
from rlalign.feedback.statistics.intervals import rate
from rlalign.reward_models.data import Pair, Rating
from rlalign.rewards.text import text_of
from rlalign.types import FloatArray, IntArray

BINS = 5
"""Bins of the reliability picture, with equal numbers of pairs."""
_CLUSTERED = "sandwich variance clustered by group of prompts, Student's t"
_SOURCE = "Cameron and Miller (2015), J. Human Resources 50:317-372"


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of the reliability picture.

    Attributes:
        confidence: mean probability of the side that the model prefers.
        accuracy: share of pairs in which people prefer that side.
        low: lower bound of Wilson's interval of the share.
        high: upper bound.
        pairs: number of pairs.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class PairMetrics:
    """Metrics on pairs that were not in training.

    Attributes:
        pairs: number of pairs.
        groups: number of groups of prompts.
        accuracy: share of pairs with s_chosen > s_rejected.
        ties: share of pairs with equal scores, which are wrong.
        brier: mean of (1 - P)².
        log_loss: mean of -log P.
        slope: factor of the score differences at which the log loss is least (Cox 1958, Biometrika 45:562-565); 1 is
            calibrated, below 1 overconfident.
        reliability: bins by confidence.
        length_correlation: of the differences of scores and of words, over pairs in both directions.
        longer_wins: share of pairs whose chosen completion has more words, those with equal numbers as a half.
        position_correlation: of s_chosen - s_rejected and the side of the screen on which the chosen completion was,
            +1 for the first. The model sees no side: a correlation means that people chose that side against the model.
        position_gap: accuracy where the first side was chosen, minus that where the second was.
        by_annotator: accuracy of the pairs of each annotator.
        by_margin: of each third of the margins.
        by_subset: of each value of a column.
    """

    pairs: int
    groups: int
    accuracy: Estimate
    ties: float
    brier: Estimate
    log_loss: Estimate
    slope: Estimate
    reliability: Sequence[Bin]
    length_correlation: float
    longer_wins: float
    position_correlation: float
    position_gap: float
    by_annotator: dict[str, Estimate]
    by_margin: dict[str, Estimate]
    by_subset: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values; NaN is None."""
        return {f.name: _json(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class RatingMetrics:
    """Metrics on ratings that were not in training.

    Attributes:
        ratings: number of ratings.
        groups: number of groups of prompts.
        rmse: root of the mean squared error, in points.
        baseline: that of the mean of these ratings.
        correlation: Pearson's, of predictions and ratings.
        accuracy: share of pairs of ratings of one group whose order is predicted; equal ratings make no pair.
    """

    ratings: int
    groups: int
    rmse: float
    baseline: float
    correlation: float
    accuracy: float

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values; NaN is None."""
        return {f.name: _json(getattr(self, f.name)) for f in fields(self)}


def _json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, Bin):
        return {f.name: without_nan(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {name: _json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json(entry) for entry in value]
    return without_nan(value)


def pair_metrics(
    pairs: Sequence[Pair], chosen: FloatArray, rejected: FloatArray, *, subset: str = "subset"
) -> PairMetrics:
    """Return the metrics of scores on N pairs.

    Args:
        pairs: the pairs, N > 0.
        chosen, rejected: scores of their sides, [N].
        subset: column by whose values accuracy is reported.
    """
    difference = chosen - rejected
    group = np.array([pair.group for pair in pairs])
    person = _codes([pair.annotator for pair in pairs])
    right = (difference > 0).astype(np.float64)
    probability = _sigmoid(difference)
    lengths = np.array([_words(p.chosen) - _words(p.rejected) for p in pairs], np.float64)
    correlation, gap = _position(pairs, difference, right)
    annotators = [pair.annotator for pair in pairs]
    return PairMetrics(
        pairs=len(pairs),
        groups=len(set(group.tolist())),
        accuracy=accuracy_of(right, group, person),
        ties=float(np.mean(difference == 0)),
        brier=mean_of((1 - probability) ** 2, group, "mean of (1 - P(chosen))²"),
        log_loss=mean_of(np.logaddexp(0, -difference), group, "mean of -log P(chosen)"),
        slope=calibration_slope(difference, group),
        reliability=reliability(difference),
        length_correlation=_antisymmetric_correlation(difference, lengths),
        longer_wins=float(np.mean((lengths > 0) + 0.5 * (lengths == 0))),
        position_correlation=correlation,
        position_gap=gap,
        by_annotator=_by([name or None for name in annotators], right, group),
        by_margin=_by(margin_bins([pair.margin for pair in pairs]), right, group),
        by_subset=_by([_label(pair.columns.get(subset)) for pair in pairs], right, group),
    )


def accuracy_of(right: FloatArray, group: IntArray, person: IntArray | None = None) -> Estimate:
    """Return the share of right pairs with its interval, clustered by group of prompts; see `intervals.rate`.

    Args:
        right: 1 or 0, [N].
        group: of prompts, [N].
        person: annotator, [N], for the counts; None: one.
    """
    people = np.zeros(len(right), np.int64) if person is None else person
    return rate(right, group, people, method="share of pairs with a higher score for the chosen side").panel


def mean_of(values: FloatArray, group: IntArray, method: str) -> Estimate:
    """Return the mean of values [N] with its interval, clustered by groups [N]."""
    value = float(values.mean())
    return t_estimate(
        value, _clustered_se((values - value) / len(values), group), _number(group) - 1, _counts(group),
        f"{method}; {_CLUSTERED}", _SOURCE,
    )  # fmt: skip


def calibration_slope(difference: FloatArray, group: IntArray) -> Estimate:
    """Return the slope b that minimizes Σ log(1 + exp(-b · difference)), with its interval.

    There is no intercept, since a pair has no direction. If each pair is right, no finite slope is least: NaN.

    Args:
        difference: s_chosen - s_rejected, [N].
        group: of prompts, [N].
    """
    method = f"maximum likelihood of sigmoid(slope · difference); {_CLUSTERED}"
    source = f"Cox (1958), Biometrika 45:562-565; {_SOURCE}"
    counts = _counts(group)
    if not ((difference > 0).any() and (difference < 0).any()):
        return t_estimate(math.nan, math.nan, 0, counts, method, source)
    unit = float(np.abs(difference).mean())
    x = difference / unit  # in units of the mean difference, so that the first step of Newton's method is of order 1
    slope = 0.0
    for _ in range(100):
        p = _sigmoid(slope * x)
        step = float(((1 - p) @ x) / ((p * (1 - p)) @ x**2))
        slope += math.copysign(min(abs(step), 1.0), step)  # the log likelihood is concave; large steps can overshoot
        if abs(step) < 1e-10:
            break
    p = _sigmoid(slope * x)
    influence = (1 - p) * x / float((p * (1 - p)) @ x**2)
    return t_estimate(slope / unit, _clustered_se(influence, group) / unit, _number(group) - 1, counts, method, source)


def reliability(difference: FloatArray, bins: int = BINS) -> list[Bin]:
    """Return the bins of the reliability picture: confidence in the preferred side against its share of being right.

    Pairs with equal scores have no preferred side and are left out.

    Args:
        difference: s_chosen - s_rejected, [N].
        bins: number of bins, with equal numbers of pairs.
    """
    decided = difference[difference != 0]
    order = np.argsort(np.abs(decided), kind="stable")
    found = []
    for part in np.array_split(order, min(bins, len(order)) or 1):
        if not len(part):
            continue
        right = int((decided[part] > 0).sum())
        low, high = wilson(right, len(part))
        confidence = float(_sigmoid(np.abs(decided[part])).mean())
        found.append(Bin(confidence, right / len(part), low, high, len(part)))
    return found


def rating_metrics(ratings: Sequence[Rating], predictions: FloatArray) -> RatingMetrics:
    """Return the metrics of predictions [N] of N ratings, N > 0."""
    points = np.array([rating.points for rating in ratings], np.float64)
    group = np.array([rating.group for rating in ratings])
    right = total = 0
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        i, j = np.triu_indices(len(rows), 1)
        gap = points[rows[i]] - points[rows[j]]
        guess = predictions[rows[i]] - predictions[rows[j]]
        right += int((gap * guess > 0).sum())
        total += int((gap != 0).sum())
    return RatingMetrics(
        len(ratings), _number(group), float(np.sqrt(np.mean((predictions - points) ** 2))), float(points.std()),
        _correlation(predictions, points), right / total if total else math.nan,
    )  # fmt: skip


def margin_bins(margins: Sequence[float | None]) -> list[str | None]:
    """Return the name of the third of the margins in which each one is; each value, if there are three or fewer."""
    known = sorted({m for m in margins if m is not None})
    if len(known) <= 3:
        return [None if m is None else f"{m:.3g}" for m in margins]
    values = np.array([m for m in margins if m is not None])
    low, high = (float(q) for q in np.quantile(values, (1 / 3, 2 / 3)))
    names: list[str | None] = []
    for m in margins:
        if m is None:
            names.append(None)
        else:
            names.append(f"up to {low:.3g}" if m <= low else f"up to {high:.3g}" if m <= high else f"above {high:.3g}")
    return names


def _label(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _by(names: Sequence[str | None], right: FloatArray, group: IntArray) -> dict[str, Estimate]:
    """Return the accuracy of the pairs of each name."""
    found = {}
    for name in sorted({name for name in names if name is not None}):
        rows = np.array([each == name for each in names])
        found[name] = accuracy_of(right[rows], group[rows])
    return found


def _position(pairs: Sequence[Pair], difference: FloatArray, right: FloatArray) -> tuple[float, float]:
    """Return the correlation of the differences with the chosen side, and the gap of the accuracies by side."""
    known = np.array([pair.chosen_first is not None for pair in pairs])
    first = np.array([bool(pair.chosen_first) for pair in pairs])
    a, b = known & first, known & ~first
    if not a.any() or not b.any():
        return math.nan, math.nan
    sign = np.where(first, 1.0, -1.0)[known]
    return _correlation(difference[known], sign), float(right[a].mean() - right[b].mean())


def _antisymmetric_correlation(a: FloatArray, b: FloatArray) -> float:
    """Return the correlation of two differences over pairs in both directions, whose means are 0."""
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return _antisymmetric_correlation(a - a.mean(), b - b.mean())


def _words(sample: Any) -> int:
    return len(text_of(sample.completion).split())


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))  # no overflow


def _codes(names: Sequence[str]) -> IntArray:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _number(group: IntArray) -> int:
    return len(np.unique(group))


def _counts(group: IntArray) -> Counts:
    return Counts(_number(group), 0, len(group))


def _clustered_se(influence: FloatArray, group: IntArray) -> float:
    """Return sqrt(G / (G - 1) · Σ_g s_g²) with the sums s_g of influences [N] over G groups; NaN for one group."""
    _, codes = np.unique(group, return_inverse=True)
    sums = np.bincount(codes, influence)
    number = len(sums)
    return math.sqrt(number / (number - 1) * float(sums @ sums)) if number > 1 else math.nan
