"""Reliability of each annotator: accuracy on gold items, and the model of Dawid and Skene."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack
from scipy.sparse.csgraph import connected_components

from rlalign.feedback.statistics.agreement import Ratings
from rlalign.feedback.statistics.estimate import Counts, Estimate, detectable, wilson, wilson_estimate
from rlalign.feedback.statistics.intervals import dense, distinct, sums_by
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.types import FloatArray

SOURCE = "Dawid and Skene (1979), J. Royal Statistical Society C 28:20-28"
GOLD_LIMIT = 0.7
"""A person whose interval of the accuracy on gold items is below this number is unreliable."""
FEWEST_GOLD = 5
"""Gold answers from which the accuracy decides."""
FEWEST_PEOPLE = 3
"""People from which the model is fitted: two people who disagree can be told apart by nobody."""
FEWEST_SHARED = 10
"""Items that a person must share with others to have a reliability."""
RULE = (
    f"unreliable: the 95 % interval of the accuracy on at least {FEWEST_GOLD} gold items is below {GOLD_LIMIT:.0%}, or "
    "the 95 % interval of the reliability (Dawid and Skene) is closer to that of random answers than to the median "
    "person's"
)
STRENGTH = 5.0
"""Answers of the pooled confusion matrix that are added to each row of a person's: see `dawid_skene`."""
_POOLED = 12
"""Steps in which the pooled matrix is computed again."""
_UNITS = 20_000
"""Units whose scores estimate the information; those of a larger study are a random part."""
_EPS = 1e-10
_STEPS = 300
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """A fit of the model. U units, A people, K categories.

    Attributes:
        posterior: probability of each true category, [U, K].
        prior: share of each true category, [K].
        confusion: probability that a person answers l if k is true, [A, K, K].
        log_likelihood: of the answers, plus the logarithm of the prior.
        converged: the log-likelihood stopped rising.
        strength: answers of the pooled matrix in each row.
    """

    posterior: FloatArray
    prior: FloatArray
    confusion: FloatArray
    log_likelihood: float
    converged: bool
    strength: float = 0.0


def dawid_skene(
    ratings: Ratings, *, strength: float = 0.0, steps: int = _STEPS, tolerance: float = _TOLERANCE
) -> DawidSkene:
    """Fit the model of Dawid and Skene by expectation maximization, from the shares of the answers to each unit.

    With the true category z_u of unit u, of prior ρ, and the answer a_up of person p::

        P(z_u = k) = ρ_k,   P(a_up = l | z_u = k) = π_pkl

    Answers are independent given the true category. Source: Dawid and Skene (1979).

    Few answers per person fit matrices that follow the noise, and the reliabilities are too low. With a strength κ the
    rows π_pk have the prior Dirichlet(1 + κ · row k of the pooled matrix). The pooled matrix is that of the expected
    answers of all people, beginning with majorities; it is computed again in the first steps.

    Args:
        ratings: answers.
        strength: κ; 0: maximum likelihood.
        steps: largest number of pairs of steps, each followed by an extrapolation.
        tolerance: change of the log-likelihood per answer that ends the fit.
    """
    k = ratings.categories
    units, people = int(ratings.unit.max()) + 1, int(ratings.person.max()) + 1
    # one-hot answers [U, A * K]: a step is some products with a sparse matrix
    ones = np.ones(len(ratings.unit))
    answer = ratings.person * k + ratings.value
    cells = csr_array((ones, (ratings.unit, answer)), shape=(units, people * k))
    # units with equal answers of the same people are one row; a random sum names them
    names = np.round(sums_by(ratings.unit, np.random.default_rng(0).random(people * k)[answer], units), 12)
    _, example, row_of, weight = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    cells = cells[example]
    transposed = cells.T.tocsr()
    counts = ratings.counts()[example].T  # [K, rows]: sums over the first axis are fast

    def maximize(posterior: FloatArray) -> FloatArray:
        """Return log prior and log confusion, [K, 1 + A * K]: by truth, then by person and answer."""
        confusion = np.stack([transposed @ (weight * row) for row in posterior]).reshape(k, people, k)
        confusion = np.maximum(confusion + strength * pool[:, None], _EPS)
        prior = np.maximum(posterior @ weight / units, _EPS)
        return _normalized(np.concatenate([prior[:, None], confusion.reshape(k, -1)], 1), people)

    def pooled(posterior: FloatArray) -> FloatArray:
        """Return the pooled confusion matrix, [K, K]."""
        answers = np.stack([transposed @ (weight * row) for row in posterior]).reshape(k, people, k).sum(1) + _EPS
        shares: FloatArray = answers / answers.sum(1, keepdims=True)
        return shares

    def expect(parameters: FloatArray) -> tuple[FloatArray, float]:
        """Return the posterior [K, rows] and the log-likelihood."""
        logits = np.stack([cells @ row[1:] + row[0] for row in parameters])
        largest = logits.max(0)
        shares = np.exp(logits - largest)
        total = shares.sum(0)
        added = strength * float((pool[:, None] * parameters[:, 1:].reshape(k, people, k)).sum())
        return shares / total, float(weight @ (np.log(total) + largest)) + added

    pool = np.zeros((k, k))
    posterior = counts / counts.sum(0)
    if strength:
        pool = pooled(posterior)
    parameters = maximize(posterior)
    posterior, height = expect(parameters)
    converged = False
    first_steps = _POOLED if strength else 0
    for step in range(steps):
        if step < first_steps:
            pool = pooled(posterior)
        once = maximize(posterior)
        first, least = expect(once)
        twice = maximize(first)
        parameters, posterior, new = _accelerated(parameters, once, twice, least, people, expect)
        # the prior of the first steps is not that of the step before
        converged = step >= first_steps and new - height < tolerance * len(ratings.unit)
        height = new
        if converged:
            break
    table = np.exp(parameters)
    confusion = table[:, 1:].reshape(k, people, k).transpose(1, 0, 2)
    return DawidSkene(posterior.T[row_of], table[:, 0], confusion, height, converged, strength)


def shared_answers(ratings: Ratings) -> Ratings:
    """Return the answers that the model can compare; none if there are too few.

    These are answers to items with two answers or more, of the largest group of people who are linked by shared items,
    each with at least `FEWEST_SHARED` of them. A group of less than `FEWEST_PEOPLE` people is none. Without a second
    answer to an item, each answer would be right.
    """
    rows = np.arange(len(ratings.unit))
    while len(rows):  # leaving somebody out can leave an item with one answer
        unit, units = dense(ratings.unit[rows])
        person, people = dense(ratings.person[rows])
        cells = csr_array((np.ones(len(rows)), (person, unit)), shape=(people, units))
        answers = sums_by(unit, np.ones(len(rows)), units)
        _, group = connected_components(cells @ cells.T, directed=False)
        shared = sums_by(person, (answers[unit] > 1).astype(float), people)
        enough = shared >= FEWEST_SHARED
        if not enough.any():
            rows = rows[:0]
            break
        largest = np.bincount(group[enough]).argmax()
        keep = (answers[unit] > 1) & (enough & (group == largest))[person]
        if keep.all():
            break
        rows = rows[keep]
    if distinct(ratings.person[rows]) < FEWEST_PEOPLE:
        rows = rows[:0]
    return Ratings(
        dense(ratings.unit[rows])[0], ratings.cluster[rows], ratings.person[rows], ratings.value[rows],
        ratings.categories,
    )  # fmt: skip


def _normalized(table: FloatArray, people: int) -> FloatArray:
    """Return the logarithms of a prior and of confusion matrices whose shares have sum 1, [K, 1 + A * K]."""
    k = len(table)
    confusion = table[:, 1:].reshape(k, people, k)
    confusion = confusion / confusion.sum(2, keepdims=True)
    prior = table[:, :1] / table[:, 0].sum()
    logs: FloatArray = np.log(np.concatenate([prior, confusion.reshape(k, -1)], 1))
    return logs


def _accelerated(
    start: FloatArray, once: FloatArray, twice: FloatArray, least: float, people: int,
    expect: Callable[[FloatArray], tuple[FloatArray, float]],
) -> tuple[FloatArray, FloatArray, float]:  # fmt: skip
    """Return parameters, posterior and log-likelihood of an extrapolation of two steps, or of the second step.

    The extrapolation must have a larger log-likelihood than the first step, `least`.

    Source: Varadhan and Roland (2008), Scandinavian J. Statistics 35:335-353 (SQUAREM, scheme S3).
    """
    change = once - start
    curvature = twice - once - change
    norm = float(np.linalg.norm(curvature))
    if norm > 0:
        length = max(1.0, float(np.linalg.norm(change)) / norm)
        far = start + 2 * length * change + length**2 * curvature
        far = _normalized(np.exp(np.clip(far, math.log(_EPS), 0.0)), people)
        posterior, height = expect(far)
        if math.isfinite(height) and height > least:
            return far, posterior, height
    return (twice, *expect(twice))


def reliabilities(ratings: Ratings, fitted: DawidSkene) -> dict[int, Estimate]:
    """Return the probability that a person gives the true answer, for each person, with its interval.

    With the person's mean posterior ρ_pk of the true categories, r_p = Σ_k ρ_pk π_pkk. Its variance is that of the
    delta method, with the inverse information of all confusion matrices and shares together: an error in the matrices
    of the others moves the truths, and with them the person's matrix. The interval is Wilson's, with the number of
    observations that has this variance, at most the number of answers.
    """
    k = ratings.categories
    variance = np.linalg.pinv(_information(ratings, fitted), rcond=1e-8, hermitian=True)
    order = np.argsort(ratings.person, kind="stable")
    people, start = np.unique(ratings.person[order], return_index=True)
    rows_of = np.split(order, start[1:])
    method = (
        "probability of the true answer (model of Dawid and Skene, confusion matrices shrunk to the pooled one), "
        "Wilson's interval with the effective number"
    )
    result = {}
    for person, rows in zip(people.tolist(), rows_of, strict=True):
        pi = fitted.confusion[person]
        share = fitted.posterior[ratings.unit[rows]].mean(0)
        diagonal = np.diag(pi)
        value = float(share @ diagonal)
        # by the logits of the person's matrix, [K * K]
        slope = (share[:, None] * diagonal[:, None] * (np.eye(k) - pi)).reshape(-1)
        own = slice(person * k * k, (person + 1) * k * k)
        spread = float(slope @ variance[own, own] @ slope)
        number = float(len(rows))
        if spread > 0 and 0 < value < 1:
            number = min(number, max(1.0, value * (1 - value) / spread))
        low, high = wilson(value * number, number)
        found = detectable(0.5 / math.sqrt(number), math.inf)
        prompts = len(np.unique(ratings.cluster[rows]))
        result[person] = Estimate(value, low, high, found, method, SOURCE, prompts, 1, len(rows))
    return result


def _information(ratings: Ratings, fitted: DawidSkene) -> FloatArray:
    """Return the information of the logits of all matrices and of the shares, [A·K² + K, A·K² + K].

    It is the sum of the outer products of the scores of units, plus the curvature of the prior. With the posterior T of
    a unit, the score of row k of the matrix of a person who answered l is T_k (1[answer = l] - π_kl), and that of the
    shares is T - ρ. Source: Berndt, Hall, Hall and Hausman (1974), Annals of Economic and Social Measurement 3:653-665.
    """
    k = ratings.categories
    people, units = len(fitted.confusion), len(fitted.posterior)
    chosen = np.arange(units)
    if units > _UNITS:
        chosen = np.random.default_rng(0).choice(units, _UNITS, replace=False)
    number = np.full(units, -1)
    number[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(number[ratings.unit] >= 0)
    unit, person = ratings.unit[rows], ratings.person[rows]
    residual = np.eye(k)[ratings.value[rows]][:, None, :] - fitted.confusion[person]  # [n, K, K]
    scores = (fitted.posterior[unit][:, :, None] * residual).reshape(-1)
    columns = (person[:, None] * k * k + np.arange(k * k)).reshape(-1)
    matrix = csr_array((scores, (np.repeat(number[unit], k * k), columns)), shape=(len(chosen), people * k * k))
    every = hstack([matrix, csr_array(fitted.posterior[chosen] - fitted.prior)]).tocsr()
    information: FloatArray = (every.T @ every).toarray() * (units / len(chosen))
    for person_of, pi in enumerate(fitted.confusion):
        for truth in range(k):
            at = person_of * k * k + truth * k
            curvature = np.diag(pi[truth]) - np.outer(pi[truth], pi[truth])
            information[at : at + k, at : at + k] += fitted.strength * curvature
    return information


def chance(ratings: Ratings, fitted: DawidSkene) -> float:
    """Return the reliability of answers that are drawn from all answers, without regard to the item."""
    answers = np.bincount(ratings.value, minlength=ratings.categories) / len(ratings.value)
    return float(answers @ fitted.prior)


def gold_accuracy(judgments: Judgments) -> dict[int, Estimate]:
    """Return the share of right answers to gold items of each person who answered some, with Wilson's interval."""
    rows = judgments.gold & (judgments.right >= 0)
    people, at = np.unique(judgments.person[rows], return_inverse=True)
    total = np.bincount(at, minlength=len(people))
    right = np.bincount(at, judgments.right[rows], len(people))
    method = "share of right answers to gold items, Wilson's interval"
    return {
        int(p): wilson_estimate(float(right[i]), float(total[i]), Counts(int(total[i]), 1, int(total[i])), method)
        for i, p in enumerate(people)
    }


def unreliable(gold: dict[int, Estimate], model: dict[int, Estimate], random: float) -> dict[int, str]:
    """Return the people to whom `RULE` applies, with the reason. Nobody is dropped: this is a list to be reported.

    Args:
        gold: accuracy on gold items per person.
        model: reliability per person; empty without a fit.
        random: reliability of random answers.
    """
    reasons = {
        person: f"gold items: at most {accuracy.high:.0%} right"
        for person, accuracy in gold.items()
        if accuracy.votes >= FEWEST_GOLD and accuracy.high < GOLD_LIMIT
    }
    if len(model) >= FEWEST_PEOPLE:
        median = float(np.median([estimate.value for estimate in model.values()]))
        limit = (median + random) / 2
        for person, estimate in model.items():
            if estimate.high < limit and person not in reasons:
                reasons[person] = f"reliability: at most {estimate.high:.0%}, random answers {random:.0%}"
    return reasons
