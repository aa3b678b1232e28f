"""Pairs of algorithms on one environment: the paired difference, its test, the winner, and the sentence about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rlalign.compare.analysis.estimates import NOTHING, OVER_SEEDS, TWO_WAY, as_array, estimate, finite, floats
from rlalign.compare.analysis.hypothesis_tests import detectable_difference, holm, unbiased_se
from rlalign.compare.analysis.intervals import ALPHA, FEWEST_SEEDS, probability_of_improvement
from rlalign.compare.analysis.learning_curves import logrank_p
from rlalign.compare.analysis.two_way import t_interval, two_way
from rlalign.compare.results.schema import BUDGETS, AlgorithmResult, EnvResult, Estimate, Pair
from rlalign.evaluation.signed_bounds import signed_bounds


def compare_pair(a: str, b: str, algorithms: Mapping[str, AlgorithmResult]) -> Pair:
    """Return the comparison of two algorithms on one environment.

    `decide` adds the corrected p-value, the winner and the sentence, which depend on the whole study.

    Args:
        a, b: labels.
        algorithms: label -> result on the environment.
    """
    x, y = algorithms[a], algorithms[b]
    finals = as_array(x.final), as_array(y.final)
    failed = [name for name in (a, b) if all(algorithms[name].failed)]
    if failed:  # the initial policy against a trained one would not compare algorithms
        unknown = dict.fromkeys(BUDGETS, NOTHING)
        return Pair(a, b, NOTHING, None, None, NOTHING, None, None, unknown, None, {}, "", failed=failed)
    difference = two_way(finals[0] - finals[1])
    scores = [np.nanmean(final, axis=1) for final in finals]
    return Pair(
        a=a,
        b=b,
        difference=estimate(difference.interval, TWO_WAY),
        p=finite(difference.p),
        p_holm=None,
        probability_of_improvement=estimate(probability_of_improvement(*scores), "Newcombe"),
        detectable=None,
        winner=None,
        auc={budget: _paired(x.auc_seeds[budget], y.auc_seeds[budget]) for budget in BUDGETS},
        at_equal_kl=None if x.at_equal_kl is None else _paired(x.at_equal_kl_seeds, y.at_equal_kl_seeds),
        threshold_p={budget: _threshold_p(x, y, budget) for budget in x.to_threshold},
        sentence="",
        identical=np.array_equal(*finals, equal_nan=True),
    )


def _paired(x: list[float | None], y: list[float | None]) -> Estimate:
    """Return the mean of the differences x − y, seed by seed, with Student's interval."""
    return estimate(t_interval(floats(x) - floats(y)), OVER_SEEDS)


def _threshold_p(x: AlgorithmResult, y: AlgorithmResult, budget: str) -> float | None:
    """Return the p-value of the log-rank test on the budget to the threshold."""
    a, b = x.to_threshold[budget], y.to_threshold[budget]
    return finite(logrank_p(np.array(a.spent), a.reached, np.array(b.spent), b.reached))


def decide(environments: Mapping[str, EnvResult]) -> dict[str, EnvResult]:
    """Return the environments with corrected p-values, winners, detectable differences and sentences of their pairs.

    Holm's correction runs over all pairs of all environments. A winner needs FEWEST_SEEDS seeds and a corrected p-value
    below 5 %.
    """
    pairs = [(name, pair) for name, env in environments.items() for pair in env.pairs]
    tests = sum(pair.p is not None for _, pair in pairs)
    adjusted = holm([math.nan if pair.p is None else pair.p for _, pair in pairs])
    seeds = {name: len(next(iter(env.algorithms.values())).failed) for name, env in environments.items()}
    decided: dict[str, list[Pair]] = {name: [] for name in environments}
    for (name, pair), p in zip(pairs, adjusted, strict=True):
        algorithms = environments[name].algorithms
        detectable = math.nan  # with too few seeds no difference is claimed, however large
        if seeds[name] >= FEWEST_SEEDS and not pair.failed:
            difference = two_way(as_array(algorithms[pair.a].final) - as_array(algorithms[pair.b].final))
            detectable = detectable_difference(unbiased_se(difference.se, difference.df), difference.df, tests)
        claimed = seeds[name] >= FEWEST_SEEDS and p < ALPHA
        better = pair.a if (pair.difference.value or 0.0) > 0 else pair.b
        result = replace(pair, p_holm=finite(p), detectable=finite(detectable), winner=better if claimed else None)
        decided[name].append(replace(result, sentence=_sentence(result, name, seeds[name])))
    return {name: replace(env, pairs=decided[name]) for name, env in environments.items()}


def _sentence(pair: Pair, env: str, seeds: int) -> str:
    """Return the result of a pair in words: the higher algorithm first, and bounds in its direction."""
    difference = pair.difference
    if pair.failed:
        return f"{' and '.join(pair.failed)} failed at every seed on {env}, so {pair.a} and {pair.b} are not compared."
    if difference.value is None:
        return f"The difference between {pair.a} and {pair.b} on {env} is unknown."
    if pair.identical:
        return f"{pair.a} and {pair.b} gave identical results on {env}: the same reward on every prompt at every seed."
    positive = difference.value >= 0
    high, low = (pair.a, pair.b) if positive else (pair.b, pair.a)
    size = f"{abs(difference.value):.3f}"
    if difference.low is None or difference.high is None:
        return f"{high} ended {size} above {low} on {env}; one seed gives no interval."
    bounds = (difference.low, difference.high) if positive else (-difference.high, -difference.low)
    text = f"{high} ended {size} above {low} on {env}, 95 % CI {signed_bounds(*bounds)}"
    if pair.winner:
        return f"{text}, {_p_text(pair.p_holm)} after Holm's correction."
    if seeds < FEWEST_SEEDS:
        return f"{text}; {seeds} seeds are too few to name a winner."
    return f"{text}, {_p_text(pair.p_holm)} after Holm's correction: no claim."


def _p_text(p: float | None) -> str:
    if p is None:
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
