"""Biases of annotators: for a side of the screen, for length, and answers that were faster than reading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlalign.compare.analysis.hypothesis_tests import holm
from rlalign.feedback.statistics.estimate import Counts, Estimate, TwoEstimates, wilson_estimate
from rlalign.feedback.statistics.intervals import rate
from rlalign.feedback.statistics.judgments import LOSS, WIN, Judgments
from rlalign.feedback.statistics.strengths import Refusal, Strengths, fit
from rlalign.types import BoolArray, FloatArray

_OUTLIER = 3.5
"""Modified z-score beyond which a value is an outlier (Iglewicz and Hoaglin 1993)."""
SPEED_SOURCE = "Iglewicz and Hoaglin (1993), How to Detect and Handle Outliers, ASQC Quality Press"


@dataclass(frozen=True, slots=True)
class Test:
    """An estimate and the test whether it differs from a value without bias.

    Attributes:
        estimate: with both intervals.
        null: value without bias.
        p: of the test whose interval is the headline, two-sided.
        found: the interval of the headline excludes the null.
    """

    estimate: TwoEstimates
    null: float
    p: float
    found: bool


def tested(estimate: TwoEstimates, null: float) -> Test:
    """Return the two-sided t test that belongs to the interval of the headline."""
    main = estimate.main
    return Test(estimate, null, main.p(null), found=main.low > null or main.high < null)


def position_bias(pairs: Judgments) -> Test | None:
    """Return the share of decisive votes for the left side, and its test against one half; None without such votes.

    Sides are random, so the share is one half for any policies if annotators have no preference for a side. The test
    is Student's t on scores clustered by prompt, and by annotator for the population.
    """
    votes = decisive(pairs)
    if not len(votes):
        return None
    left = (left_wins(votes)).astype(np.float64)
    estimate = rate(left, votes.group, votes.person, method="share of decisive votes for the left side")
    return tested(estimate, 0.5)


def position_bias_of_people(pairs: Judgments) -> dict[int, tuple[Estimate, float]]:
    """Return the share of decisive votes for the left side of each person, and p-values adjusted by Holm.

    The test of a person is binomial. Source of the adjustment: Holm (1979), Scandinavian J. Statistics 6:65-70.
    """
    votes = decisive(pairs)
    people, at = np.unique(votes.person, return_inverse=True)
    left = np.bincount(at, left_wins(votes), len(people))
    total = np.bincount(at, minlength=len(people))
    # the binomial distribution of one half is symmetric: its two-sided p-value is twice the smaller tail
    p = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(left, total - left), total, 0.5))
    adjusted = holm(p.tolist())
    method = "share of decisive votes for the left side, Wilson's interval"
    return {
        int(person): (
            wilson_estimate(float(left[i]), float(total[i]), Counts(int(total[i]), 1, int(total[i])), method),
            adjusted[i],
        )
        for i, person in enumerate(people)
    }


def length_bias(pairs: Judgments, fitted: Strengths | Refusal | None = None) -> tuple[Test | None, Test | Refusal]:
    """Return the share of decisive votes for the longer completion, and the effect of length beside the strengths.

    The share differs from one half for a policy that is better and longer. The effect does not: it is the coefficient
    of the relative difference in length in Davidson's model with strengths of the policies, in log odds per standard
    deviation. It shows that longer completions of the same policy win more often, for any reason.

    Args:
        pairs: votes that `rlalign.feedback.statistics.win_rates.comparisons` returned.
        fitted: the fit of Davidson's model with this term, if it exists already.
    """
    votes = decisive(pairs)
    longer = votes.take(votes.length[:, 0] != votes.length[:, 1])
    share = None
    if len(longer):
        won = ((longer.outcome == WIN) == (longer.length[:, 0] > longer.length[:, 1])).astype(np.float64)
        share = tested(
            rate(won, longer.group, longer.person, method="share of decisive votes for the longer side"), 0.5
        )
    if fitted is None:
        fitted = fit(pairs, "davidson", ("length",))
    if isinstance(fitted, Refusal):
        return share, fitted
    if not fitted.terms:
        return share, Refusal("no votes", "expected completions of different lengths, got equal ones")
    (effect,) = fitted.covariance.of(np.eye(len(fitted.values) + 1)[-1:]).estimates(
        fitted.effects, "effect of relative length on the log odds, per standard deviation", fitted.source
    )
    return share, tested(effect, 0.0)


def decisive(pairs: Judgments) -> Judgments:
    """Return the votes for one of the two sides."""
    return pairs.take((pairs.outcome == WIN) | (pairs.outcome == LOSS))


def left_wins(votes: Judgments) -> BoolArray:
    """Return True for decisive votes for the left side."""
    wins: BoolArray = (votes.outcome == WIN) == votes.first_left
    return wins


# ---- speed ----


def modified_z(values: FloatArray) -> FloatArray:
    """Return 0.6745 (x - median) / MAD; 0 where the median absolute deviation is 0 (Iglewicz and Hoaglin 1993)."""
    if not len(values):
        return values
    distance = values - np.median(values)
    deviation = float(np.median(np.abs(distance)))
    if deviation == 0:
        return np.zeros_like(values)
    scores: FloatArray = 0.6745 * distance / deviation
    return scores


def fast_votes(judgments: Judgments) -> BoolArray:
    """Return True for votes that are much faster than the others of the study, [N].

    The logarithm of the active time has a modified z-score below -3.5.
    """
    # a time of 0 is that of a page without a clock of its own, or a click at once: a tenth of a second
    return modified_z(np.log(np.maximum(judgments.seconds, 0.1))) < -_OUTLIER


def fast_people(judgments: Judgments) -> dict[int, tuple[float, bool]]:
    """Return the median active seconds of each person, and whether the person is much faster than the others.

    The logarithm of the median has a modified z-score below -3.5 among the people.
    """
    order = np.argsort(judgments.person, kind="stable")
    people, start = np.unique(judgments.person[order], return_index=True)
    parts = np.split(judgments.seconds[order], start[1:]) if len(people) else []
    medians = np.array([float(np.median(part)) for part in parts])
    outlier = modified_z(np.log(np.maximum(medians, 0.1))) < -_OUTLIER
    return {int(p): (float(medians[i]), bool(outlier[i])) for i, p in enumerate(people)}
