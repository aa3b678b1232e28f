"""Sample size: prompts, people and votes for a difference in win rate, and the smallest detectable difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlalign.feedback.statistics.estimate import LEVEL, POWER, t_quantile
from rlalign.feedback.statistics.intervals import Interval, dense, sums_by
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.feedback.statistics.win_rates import SCORE, compared_pairs
from rlalign.types import FloatArray, IntArray

METHOD = (
    "smallest detectable difference of a win rate from 50 %: (t(1 - α/2) + t(power)) · se, with the variance of scores "
    "divided into prompts, annotators and the rest"
)
SOURCE = "Cameron and Miller (2015), J. Human Resources 50:317-372; Bloom (1995), Evaluation Review 19:547-556"
_MOST = 10_000_000
"""Prompts or people beyond which a difference cannot be reached."""


@dataclass(frozen=True, slots=True)
class Variability:
    """Variance of a score and its correlations.

    Attributes:
        variance: of a score of 0, 1/2 or 1; 0.25 without ties.
        prompt: correlation of the votes of different annotators on a prompt.
        person: correlation of the votes of an annotator on different prompts.
        origin: where the numbers are from.
    """

    variance: float
    prompt: float
    person: float
    origin: str


PRIOR = Variability(
    0.25, 0.15, 0.05,
    "prior: no ties, standard deviation 1 between prompts and 0.6 between annotators in log odds",
)  # fmt: skip
"""Before a study. The log odds are those of the simulated studies in docs/concepts/feedback_statistics.md; on the scale
of scores the correlations are asin(ρ) · 2/π of those of the latent normal variables, 0.235 and 0.085."""


@dataclass(frozen=True, slots=True)
class Design:
    """A study.

    Attributes:
        prompts: number of prompts, with one item per pair of policies.
        people: number of annotators.
        votes_per_item: annotators who judge an item, at most `people`.
        comparisons: number of pairs of policies; the level is divided by it (Bonferroni).
    """

    prompts: int
    people: int
    votes_per_item: int
    comparisons: int = 1

    @property
    def votes(self) -> int:
        """Votes on each pair of policies."""
        return self.prompts * min(self.votes_per_item, self.people)


def standard_error(design: Design, variability: Variability, interval: Interval) -> float:
    """Return the standard error of a win rate that a design will have.

    With G prompts, m votes on each, n = G m, A annotators, variance σ² and correlations ρ::

        V_panel = σ² (ρ_prompt / G + (1 - ρ_prompt - ρ_person) / n + ρ_person (A - m) / ((A - 1) n))
        V_population = V_panel + σ² ρ_person / A

    The third term is the chance of the assignment of annotators to prompts.
    """
    m = min(design.votes_per_item, design.people)
    v = variability
    chance = (design.people - m) / max(1, design.people - 1)
    parts = v.prompt / design.prompts + (1 - v.prompt - v.person + v.person * chance) / design.votes
    if interval == "population":
        parts += v.person / design.people
    return math.sqrt(v.variance * parts)


def detectable_difference(
    design: Design, variability: Variability, interval: Interval, *, power: float = POWER
) -> float:
    """Return the smallest difference of a win rate from 1/2 that is found with a given power; infinite for one person.

    The degrees of freedom are prompts - 1 for the panel, and min(prompts, people) - 1 for the population.
    """
    df = (design.prompts if interval == "panel" else min(design.prompts, design.people)) - 1
    if df < 1:
        return math.inf
    level = 1 - (1 - LEVEL) / design.comparisons
    quantiles = t_quantile((1 + level) / 2, df) + t_quantile(power, df)
    return quantiles * standard_error(design, variability, interval)


def required_prompts(
    difference: float, people: int, votes_per_item: int, variability: Variability, interval: Interval, *,
    power: float = POWER, comparisons: int = 1,
) -> int | None:  # fmt: skip
    """Return the number of prompts at which a difference is found with a given power; None if no number is enough.

    For the population of annotators, no number of prompts makes up for too few people.
    """
    return _smallest(
        lambda g: detectable_difference(
            Design(g, people, votes_per_item, comparisons), variability, interval, power=power
        ) <= difference
    )  # fmt: skip


def required_people(
    difference: float, votes_per_item: int, variability: Variability, *, prompts: int = _MOST, power: float = POWER,
    comparisons: int = 1,
) -> int | None:  # fmt: skip
    """Return the fewest people with whom a claim about the population is possible; None if no number is enough.

    Args:
        difference: of the win rate from 1/2.
        votes_per_item: annotators who judge an item.
        variability: variance and correlations.
        prompts: number of prompts; by default as many as one likes.
        power: of the test.
        comparisons: number of pairs of policies.
    """
    return _smallest(
        lambda a: detectable_difference(
            Design(prompts, a, votes_per_item, comparisons), variability, "population", power=power
        ) <= difference
    )  # fmt: skip


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 for which a condition holds that holds for all larger ones."""
    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def estimate_variability(pairs: Judgments) -> Variability:
    """Return the variance and the correlations of the scores of a study, with the prior where it says nothing.

    With residuals e of the win rates, sums s over clusters, n_c votes in a cell of prompt and annotator, G clusters::

        covariance = (G / (G - 1) · Σ_g s_g² - C / (C - 1) · Σ_c s_c²) / (Σ_g n_g² - Σ_c n_c²)

    is the mean product of two votes of a prompt by different annotators, and likewise of an annotator on different
    prompts. It is at least 0. The factors make up for the estimated mean, as in the sandwich.
    """
    if not len(pairs):
        return PRIOR
    scores = SCORE[pairs.outcome]
    residual = np.zeros(len(pairs))
    for first, second in compared_pairs(pairs):
        rows = (pairs.first == first) & (pairs.second == second)
        residual[rows] = scores[rows] - scores[rows].mean()
    variance = float((residual**2).mean())
    if variance == 0:
        return Variability(PRIOR.variance, PRIOR.prompt, PRIOR.person, f"{PRIOR.origin} (all votes are equal)")
    prompts, _ = dense(pairs.group)
    people, number = dense(pairs.person)
    cells, _ = dense(prompts * number + people)
    prompt = _correlation(residual, prompts, cells, variance)
    person = _correlation(residual, people, cells, variance)
    missing = [name for name, value in (("prompts", prompt), ("annotators", person)) if math.isnan(value)]
    origin = "estimated from these votes" + (f"; prior for {' and '.join(missing)}" if missing else "")
    prompt = PRIOR.prompt if math.isnan(prompt) else prompt
    person = PRIOR.person if math.isnan(person) else person
    return Variability(variance, prompt, min(person, 1 - prompt), origin)


def _correlation(residual: FloatArray, clusters: IntArray, cells: IntArray, variance: float) -> float:
    """Return the correlation of two votes of a cluster in different cells, within 0 and 1; NaN if there are none."""
    squares = []
    sizes = []
    for codes in (clusters, cells):
        number = int(codes.max()) + 1
        sums = sums_by(codes, residual, number)
        squares.append(float(sums @ sums) * (number / (number - 1) if number > 1 else math.nan))
        counts = np.bincount(codes)
        sizes.append(float(counts @ counts))
    pairs = sizes[0] - sizes[1]
    if pairs <= 0 or math.isnan(squares[0]):
        return math.nan
    return min(1.0, max(0.0, (squares[0] - squares[1]) / pairs / variance))
