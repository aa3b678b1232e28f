"""All statistics of a study as JSON values: the content of the report.

Each estimate is a dictionary with `value`, `low`, `high`, `level`, `detectable`, `method`, `source`, `prompts`,
`people` and `votes`; None stands for a number that the votes do not determine. An estimate with two intervals has
`panel`, `population` and the name of the `headline`. A statistic that does not exist has `refused` and `detail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlalign.feedback.statistics import agreement, bias, reliability
from rlalign.feedback.statistics.estimate import LEVEL, POWER, Estimate, TwoEstimates, without_nan
from rlalign.feedback.statistics.intervals import Interval, distinct
from rlalign.feedback.statistics.judgments import BAD, SKIP, TIE, WIN, Judgments
from rlalign.feedback.statistics.power import (
    METHOD,
    SOURCE,
    Design,
    detectable_difference,
    estimate_variability,
    required_people,
    required_prompts,
)
from rlalign.feedback.statistics.strengths import Refusal, Strengths, fit
from rlalign.feedback.statistics.summary_policies import (
    all_fits,
    ranking_part,
    rankings_part,
    ratings_part,
    strengths_part,
    win_rates_part,
)
from rlalign.feedback.statistics.win_rates import compared, compared_pairs, comparisons, outcome_rates, ranked_pairs
from rlalign.feedback.study import Study
from rlalign.types import BoolArray

INTERVALS: tuple[Interval, ...] = ("panel", "population")
DIFFERENCE = 0.05
"""Difference of a win rate from one half for which a sample size is given."""


def summarize(judgments: Judgments, study: Study) -> dict[str, Any]:
    """Return all statistics of the votes of a study.

    Args:
        judgments: votes of people.
        study: the study.
    """
    pairs = comparisons(judgments)
    people, unreliable = people_part(judgments, pairs, study)
    # one set of votes decides what is fast: gold items, repetitions and skips take other times
    fast = np.zeros(len(judgments), bool)
    fast[judgments.counted] = bias.fast_votes(judgments.take(judgments.counted))
    result: dict[str, Any] = {
        "kind": study.kind,
        "level": LEVEL,
        "power": POWER,
        "policies": list(judgments.policies),
        "source": "person",
        "counts": counts_part(judgments),
        "agreement": agreement_part(judgments),
        "consistency": {key: both(value) for key, value in agreement.self_consistency(judgments).items()},
        "people": people,
        "speed": {
            "fast_votes": int(fast.sum()),
            "rule": "logarithm of the active seconds with a modified z-score below -3.5",
            "source": bias.SPEED_SOURCE,
        },
        "skips": _by_policy(judgments, SKIP),
        "planning": planning_part(judgments, pairs),
    }
    if study.kind == "rating":
        return result_of(result | {"ratings": ratings_part(judgments)})
    result["win_rates"] = win_rates_part(pairs)
    if study.kind == "ranking":
        result["ranking"] = ranking_part(pairs, fit(pairs))
        return result_of(result | {"rankings": rankings_part(judgments)})
    fits = all_fits(pairs)
    result["ranking"] = ranking_part(pairs, fits.models["davidson"])
    result["bad"] = _by_policy(judgments, BAD)
    result["bias"] = bias_part(pairs, fits.controlled["length"])
    result["strengths"] = strengths_part(pairs, fits)
    fast_pairs = fast[compared(judgments)]
    result["without"] = {
        "unreliable_people": _without(pairs, ~np.isin(pairs.person, list(unreliable)), bool(unreliable)),
        "fast_votes": _without(pairs, ~fast_pairs, bool(fast_pairs.any())),
    }
    return result_of(result)


def result_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that JSON can hold: NaN and infinity are None."""
    result: dict[str, Any] = without_nan(dict(values))
    return result


def both(estimate: TwoEstimates | Refusal | None) -> dict[str, Any] | None:
    """Return an estimate with both intervals, or the reason why there is none, as JSON values."""
    return None if estimate is None else estimate.to_json()


def counts_part(judgments: Judgments) -> dict[str, Any]:
    """Return the numbers of votes of each sort. `votes` are the counted ones."""
    counted = judgments.take(judgments.counted)
    plain = ~judgments.gold & (judgments.repeat_of < 0)
    return {
        "prompts": distinct(counted.group),
        "people": distinct(counted.person),
        "items": distinct(counted.item),
        "votes": len(counted),
        "skips": int((plain & ~judgments.answered).sum()),
        "gold": int((judgments.gold & judgments.answered).sum()),
        "repetitions": int((~judgments.gold & (judgments.repeat_of >= 0) & judgments.answered).sum()),
    }


# ---- agreement ----


def agreement_part(judgments: Judgments) -> dict[str, Any]:
    """Return alpha and kappa of each kind of answer.

    Pairs: nominal on all four answers, ordinal on loss < tie < win. Rankings: on the implied comparisons. Ratings: the
    points of each scale.
    """
    if judgments.kind == "rating":
        return {name: _agreement_of_scale(judgments, at) for at, name in enumerate(judgments.scales)}
    pairs = ranked_pairs(judgments.take(judgments.counted)) if judgments.kind == "ranking" else judgments
    every = agreement.of_votes(pairs, values=pairs.outcome, keep=pairs.outcome <= BAD, categories=BAD + 1)
    ordered = agreement.of_votes(pairs, values=pairs.outcome, keep=pairs.outcome <= WIN, categories=WIN + 1)
    return {
        "alpha_nominal": agreement.alpha(every, "nominal").to_json(),
        "alpha_ordinal": agreement.alpha(ordered, "ordinal").to_json(),
        **_kappas(every, judgments.people),
    }


def _agreement_of_scale(judgments: Judgments, scale: int) -> dict[str, Any]:
    points = judgments.ratings[:, scale]
    size = int(points.max(initial=1))
    ratings = agreement.of_votes(judgments, values=points - 1, keep=points > 0, categories=size)
    return {
        "alpha_ordinal": agreement.alpha(ratings, "ordinal").to_json(),
        "alpha_interval": agreement.alpha(ratings, "interval").to_json(),
        **_kappas(ratings, judgments.people),
    }


def _kappas(ratings: agreement.Ratings, people: tuple[str, ...]) -> dict[str, Any]:
    listed, mean = agreement.cohen_kappas(ratings)
    return {
        "fleiss_kappa": agreement.fleiss_kappa(ratings).to_json(),
        "cohen_kappa_mean": both(mean),
        "cohen_kappas": [
            {"first": people[k.first], "second": people[k.second], "kappa": k.kappa, "items": k.items} for k in listed
        ],
        "equal_answers": agreement.percent_agreement(ratings).to_json(),
    }


# ---- people ----


def people_part(judgments: Judgments, pairs: Judgments, study: Study) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the figures of each person, and the reasons of those who are unreliable by index.

    Nobody is dropped: the other statistics are of all people.
    """
    gold = reliability.gold_accuracy(judgments)
    model: dict[int, Estimate] = {}
    random = float("nan")
    fitted = None
    if study.kind == "pair":
        ratings = agreement.of_votes(
            judgments, values=judgments.outcome, keep=judgments.outcome <= BAD, categories=BAD + 1
        )
        ratings = reliability.shared_answers(ratings)
        if len(ratings.unit):
            fitted = reliability.dawid_skene(ratings, strength=reliability.STRENGTH)
            model = reliability.reliabilities(ratings, fitted)
            random = reliability.chance(ratings, fitted)
    reasons = reliability.unreliable(gold, model if fitted is not None and fitted.converged else {}, random)
    counted = judgments.take(judgments.counted)
    speed = bias.fast_people(counted)
    sides = bias.position_bias_of_people(pairs) if study.kind == "pair" else {}
    votes = np.bincount(counted.person, minlength=len(judgments.people))
    skips = np.bincount(judgments.person[judgments.outcome == SKIP], minlength=len(judgments.people))
    listed = []
    for person in np.unique(judgments.person).tolist():
        seconds, fast = speed.get(person, (float("nan"), False))
        share, p = sides.get(person, (None, float("nan")))
        listed.append(
            {
                "person": judgments.people[person],
                "votes": int(votes[person]),
                "skips": int(skips[person]),
                "median_seconds": seconds,
                "fast": fast,
                "gold": gold[person].to_json() if person in gold else None,
                "reliability": model[person].to_json() if person in model else None,
                "left_share": None if share is None else share.to_json(),
                "left_p_holm": p,
                "unreliable": reasons.get(person),
            }
        )
    part = {
        "people": listed,
        "rule": reliability.RULE,
        "unreliable": [judgments.people[person] for person in reasons],
        "random_answers": random,
        "model": None if fitted is None else {"converged": fitted.converged, "source": reliability.SOURCE},
    }
    return part, reasons


# ---- biases, skips, sensitivity ----


def bias_part(pairs: Judgments, with_length: Strengths | Refusal) -> dict[str, Any]:
    """Return the tests of position and length bias."""
    share, effect = bias.length_bias(pairs, with_length)
    return {
        "position": _test(bias.position_bias(pairs)),
        "length_share": _test(share),
        "length_effect": _test(effect),
    }


def _test(test: bias.Test | Refusal | None) -> dict[str, Any] | None:
    if test is None or isinstance(test, Refusal):
        return both(test)
    return {**test.estimate.to_json(), "null": test.null, "p": test.p, "found": test.found}


def _by_policy(judgments: Judgments, outcome: int) -> list[dict[str, Any]]:
    rates = outcome_rates(judgments, outcome)
    return [
        {"policy": None if key is None else judgments.policies[key], **estimate.to_json()}
        for key, estimate in rates.items()
    ]


def _without(pairs: Judgments, keep: BoolArray, changed: bool) -> dict[str, Any] | None:
    """Return win rates and ranking of a part of the votes; None if it is all of them."""
    if not changed:
        return None
    part = pairs.take(keep)
    return {
        "votes_left_out": int((~keep).sum()),
        "win_rates": win_rates_part(part),
        "ranking": ranking_part(part, fit(part)),
    }


# ---- sample size ----


def planning_part(judgments: Judgments, pairs: Judgments) -> dict[str, Any] | None:
    """Return the correlations of the votes, and what a study like this one detects; None without comparisons.

    Numbers are per pair of policies.
    """
    if not len(pairs):
        return None
    variability = estimate_variability(pairs)
    number = max(1, len(compared_pairs(pairs)))
    prompts = distinct(pairs.group)
    people = distinct(pairs.person)
    per_prompt = len(pairs) / number / prompts
    m = max(1, round(per_prompt))
    design = Design(prompts, people, m, number)
    return {
        "variance": variability.variance,
        "prompt_correlation": variability.prompt,
        "person_correlation": variability.person,
        "origin": variability.origin,
        "ties": float(((pairs.outcome == TIE) | (pairs.outcome == BAD)).mean()),
        "comparisons": number,
        "prompts": prompts,
        "people": people,
        "votes_per_prompt": per_prompt,
        "detectable": {name: detectable_difference(design, variability, name) for name in INTERVALS},
        "for_difference": {
            "difference": DIFFERENCE,
            "panel_prompts": required_prompts(DIFFERENCE, people, m, variability, "panel", comparisons=number),
            "population_prompts": required_prompts(
                DIFFERENCE, people, m, variability, "population", comparisons=number
            ),
            "population_people": required_people(DIFFERENCE, m, variability, prompts=prompts, comparisons=number),
        },
        "method": METHOD,
        "source": SOURCE,
    }
