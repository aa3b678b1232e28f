"""The parts of the summary about policies: win rates, strengths, ranks, ratings and rankings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlalign.feedback.statistics.estimate import LEVEL, Estimate, TwoEstimates, t_quantile
from rlalign.feedback.statistics.intervals import Covariance, Interval, covariance
from rlalign.feedback.statistics.judgments import Judgments
from rlalign.feedback.statistics.plackett_luce import fit_rankings
from rlalign.feedback.statistics.ranking import (
    RANK_SOURCE,
    SOURCE,
    contrasts,
    critical_value,
    cycles,
    elo,
    rank_sets,
    simultaneous,
)
from rlalign.feedback.statistics.ratings import METHOD as RATING_METHOD
from rlalign.feedback.statistics.ratings import SOURCE as RATING_SOURCE
from rlalign.feedback.statistics.ratings import fit_ratings, superiority
from rlalign.feedback.statistics.strengths import MODELS, TERMS, Refusal, Strengths, fit
from rlalign.feedback.statistics.win_rates import PairRate, average_win_rates, pair_influences, win_rates
from rlalign.types import FloatArray


def win_rates_part(pairs: Judgments) -> dict[str, Any]:
    """Return the win rate of each pair of policies with simultaneous intervals, averages per policy, and cycles."""
    rates = win_rates(pairs)
    together = simultaneous_rates(pairs, rates)
    listed = [
        {
            "first": pairs.policies[pair.first],
            "second": pairs.policies[pair.second],
            **pair.rate.to_json(),
            "simultaneous": None if claim is None else claim.to_json(),
            "wins": pair.wins,
            "ties": pair.ties,
            "bad": pair.bad,
            "losses": pair.losses,
        }
        for pair, claim in zip(rates, together, strict=True)
    ]
    averages = [
        {"policy": pairs.policies[policy], **estimate.to_json()}
        for policy, estimate in average_win_rates(pairs).items()
    ]
    size = len(pairs.policies)
    certain, raw = np.zeros((size, size), bool), np.zeros((size, size), bool)
    for pair, claim in zip(rates, together, strict=True):
        value = pair.rate.panel.value
        raw[pair.first, pair.second], raw[pair.second, pair.first] = value > 0.5, value < 0.5
        if claim is not None:
            certain[pair.first, pair.second] = claim.low > 0.5
            certain[pair.second, pair.first] = claim.high < 0.5
    return {
        "pairs": listed,
        "averages": averages,
        "cycles": [[pairs.policies[i] for i in members] for members in cycles(certain)],
        "cycles_without_intervals": len(cycles(raw)),
    }


def simultaneous_rates(pairs: Judgments, rates: list[PairRate]) -> list[Estimate | None]:
    """Return max-t intervals of all win rates, of the kind of the headline; None for pairs without an interval.

    A pair with one prompt has no interval, and takes no part in the multiple of the standard errors.
    """
    if not rates:
        return []
    interval: Interval = "population" if all(pair.rate.headline == "population" for pair in rates) else "panel"
    used = [_of(pair.rate, interval) for pair in rates]
    exists = np.array([estimate.df >= 1 for estimate in used])  # False for NaN
    if not exists.any():
        return [None for _ in used]
    claims = [estimate for estimate in used if estimate.df >= 1]
    df = min(estimate.df for estimate in claims)
    joint = covariance(pair_influences(pairs)[:, exists], pairs.group, pairs.person)
    matrix = joint.panel if interval == "panel" else joint.population
    scale = np.sqrt(np.diag(matrix))
    positive = scale > 0  # a policy that won each vote has no variance of its own, and an interval from the two prompts
    correlation = np.eye(len(claims))
    inside = np.ix_(positive, positive)
    correlation[inside] = matrix[inside] / np.outer(scale[positive], scale[positive])
    critical = critical_value(correlation, df)
    return [_widened(estimate, critical, len(claims)) if estimate.df >= 1 else None for estimate in used]


def _of(estimate: TwoEstimates, interval: Interval) -> Estimate:
    if interval == "population" and estimate.population is not None:
        return estimate.population
    return estimate.panel


def _widened(estimate: Estimate, critical: float, claims: int) -> Estimate:
    """Return an estimate of a rate with another multiple of its standard error."""
    low = max(0.0, estimate.center - critical * estimate.se)
    high = min(1.0, estimate.center + critical * estimate.se)
    found = estimate.detectable + (critical - t_quantile((1 + LEVEL) / 2, estimate.df)) * estimate.se
    return Estimate(
        estimate.value, low, high, found, f"{estimate.method}; simultaneous (max-t) for {claims} claims",
        f"{estimate.source}; {SOURCE}", estimate.prompts, estimate.people, estimate.votes,
    )  # fmt: skip


# ---- strengths ----


CONTROLLED: dict[str, tuple[str, ...]] = {
    "position": ("position",),
    "length": ("length",),
    "position, length and Markdown": TERMS,
}
"""Fits with terms beside the plain one."""


@dataclass(frozen=True, slots=True)
class Fits:
    """The fits of a study.

    Attributes:
        models: by the model of ties, without terms.
        controlled: of Davidson's model, by the keys of `CONTROLLED`.
    """

    models: dict[str, Strengths | Refusal]
    controlled: dict[str, Strengths | Refusal]


def all_fits(pairs: Judgments) -> Fits:
    """Return the fits by each model of ties, and with terms for position, length and Markdown."""
    return Fits(
        {name: fit(pairs, name) for name in MODELS},
        {name: fit(pairs, "davidson", terms) for name, terms in CONTROLLED.items()},
    )


def strengths_part(pairs: Judgments, fits: Fits) -> dict[str, Any]:
    """Return the strengths by each model of ties, and with terms for position, length and Markdown."""
    return {
        "models": {name: _fit_json(pairs, fitted) for name, fitted in fits.models.items()},
        "with_terms": {name: _fit_json(pairs, fitted) for name, fitted in fits.controlled.items()},
    }


def _fit_json(pairs: Judgments, fitted: Strengths | Refusal) -> dict[str, Any]:
    if isinstance(fitted, Refusal):
        return fitted.to_json()
    size = len(fitted.values)
    every = fitted.covariance.estimates(
        np.concatenate([fitted.values, fitted.effects]), fitted.method + ", log odds with mean 0", fitted.source
    )
    scale = elo(fitted.values)
    return {
        "strengths": [
            {"policy": pairs.policies[policy], **every[i].to_json(), "elo": float(scale[i])}
            for i, policy in enumerate(fitted.policies)
        ],
        "terms": [{"term": name, **every[size + i].to_json()} for i, name in enumerate(fitted.terms)],
        "tie_parameter": fitted.tie,
        "log_likelihood": fitted.log_likelihood,
        "method": fitted.method,
        "source": fitted.source,
        "elo": "picture only: 1500 + 400 / ln 10 · strength",
    }


def ranking_part(pairs: Judgments, fitted: Strengths | Refusal) -> dict[str, Any]:
    """Return the differences of strengths with simultaneous intervals, and the ranks that each policy can have."""
    if isinstance(fitted, Refusal):
        return fitted.to_json()
    return _ranks(pairs, fitted)


def _ranks(judgments: Judgments, fitted: Strengths) -> dict[str, Any]:
    return ranks_of(
        [judgments.policies[i] for i in fitted.policies], fitted.values, fitted.strengths_covariance(),
        method=fitted.method, source=fitted.source,
    )  # fmt: skip


def ranks_of(labels: list[str], values: FloatArray, of: Covariance, *, method: str, source: str) -> dict[str, Any]:
    """Return the policies in the order of their strengths, each with its set of ranks, and all differences.

    Args:
        labels: of the policies, [P].
        values: their strengths, [P].
        of: the covariance of the strengths.
        method: of the fit.
        source: its paper.
    """
    pairs, matrix = contrasts(len(labels))
    two = of.estimates(values, method, source)
    interval: Interval = two[0].headline
    claims = simultaneous(matrix @ values, of.of(matrix), interval, method=f"{method}: difference", source=source)
    ranks = rank_sets(pairs, claims.estimates, len(labels))
    order = np.argsort(-values, kind="stable").tolist()
    return {
        "interval": interval,
        "critical_value": claims.critical,
        "policies": [
            {
                "policy": labels[i],
                "strength": float(values[i]),
                "best_rank": ranks[i].best,
                "worst_rank": ranks[i].worst,
                "prompts": of.counts.prompts,
                "people": of.counts.people,
                "votes": of.counts.votes,
            }
            for i in order
        ],
        "differences": [
            {"first": labels[i], "second": labels[j], **claim.to_json()}
            for (i, j), claim in zip(pairs, claims.estimates, strict=True)
        ],
        "determined": all(r.best == r.worst for r in ranks) and math.isfinite(claims.critical),
        "method": method,
        "source": RANK_SOURCE,
    }


# ---- other kinds ----


def rankings_part(judgments: Judgments) -> dict[str, Any]:
    """Return the strengths of rankings by Plackett-Luce, and the ranks that each policy can have."""
    fitted = fit_rankings(judgments)
    if isinstance(fitted, Refusal):
        return fitted.to_json()
    return {**_fit_json(judgments, fitted), "ranking": _ranks(judgments, fitted)}


def ratings_part(judgments: Judgments) -> dict[str, Any]:
    """Return for each scale the ordinal model, the ranks of the policies, and the comparison by ranks of ratings."""
    scales = {}
    for at, name in enumerate(judgments.scales):
        fitted = fit_ratings(judgments, at)
        part: dict[str, Any] = {
            "superiority": [
                {"first": judgments.policies[i], "second": judgments.policies[j], **estimate.to_json()}
                for (i, j), estimate in superiority(judgments, at).items()
            ]
        }
        if isinstance(fitted, Refusal):
            part["model"] = part["ranking"] = fitted.to_json()
        else:
            labels = [judgments.policies[i] for i in fitted.policies]
            two = fitted.covariance.estimates(fitted.values, f"{RATING_METHOD}, log odds with mean 0", RATING_SOURCE)
            part["model"] = {
                "locations": [{"policy": label, **two[i].to_json()} for i, label in enumerate(labels)],
                "thresholds": fitted.thresholds.tolist(),
                "log_likelihood": fitted.log_likelihood,
                "method": RATING_METHOD,
                "source": RATING_SOURCE,
            }
            part["ranking"] = ranks_of(
                labels, fitted.values, fitted.covariance, method=RATING_METHOD, source=RATING_SOURCE
            )
        scales[name] = part
    return scales
