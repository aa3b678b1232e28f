"""Two algorithms on one environment: their paired difference, whether one may be called better, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rlalign.compare.analysis import curves as cv
from rlalign.compare.analysis import statistics as st
from rlalign.compare.analysis.estimates import NOTHING, OVER_SEEDS, TWO_WAY, as_array, estimate, finite, floats
from rlalign.compare.results.schema import BUDGETS, AlgorithmResult, EnvResult, Pair


def pair_of(a: str, b: str, algorithms: Mapping[str, AlgorithmResult]) -> Pair:
    """Two algorithms on one environment; the corrected p, the winner and the sentence are for `decide`."""
    x, y = algorithms[a], algorithms[b]
    finals = as_array(x.final), as_array(y.final)
    failed = [name for name in (a, b) if all(algorithms[name].failed)]
    if failed:  # starts against what the other learnt: no comparison of algorithms
        unknown = dict.fromkeys(BUDGETS, NOTHING)
        return Pair(a, b, NOTHING, None, None, NOTHING, None, None, unknown, None, {}, "", failed=failed)
    gap = st.two_way(finals[0] - finals[1])
    scores = [np.nanmean(final, axis=1) for final in finals]
    return Pair(
        a=a,
        b=b,
        difference=estimate(gap.interval, TWO_WAY),
        p=finite(gap.p),
        p_holm=None,
        probability_of_improvement=estimate(st.probability_of_improvement(*scores), "Newcombe"),
        detectable=None,
        winner=None,
        auc={k: estimate(st.t_interval(floats(x.auc_seeds[k]) - floats(y.auc_seeds[k])), OVER_SEEDS) for k in BUDGETS},
        at_equal_kl=None
        if x.at_equal_kl is None
        else estimate(st.t_interval(floats(x.at_equal_kl_seeds) - floats(y.at_equal_kl_seeds)), OVER_SEEDS),
        threshold_p={
            k: finite(
                cv.logrank_p(
                    np.array(x.to_threshold[k].spent),
                    x.to_threshold[k].reached,
                    np.array(y.to_threshold[k].spent),
                    y.to_threshold[k].reached,
                )
            )
            for k in x.to_threshold
        },
        sentence="",
        identical=np.array_equal(*finals, equal_nan=True),
    )


def decide(environments: Mapping[str, EnvResult]) -> dict[str, EnvResult]:
    """Holm's correction over all pairs of all environments; winners, where there are seeds enough; sentences."""
    pairs = [(name, pair) for name, env in environments.items() for pair in env.pairs]
    tests = sum(pair.p is not None for _, pair in pairs)
    adjusted = st.holm([math.nan if p.p is None else p.p for _, p in pairs])
    seeds = {name: len(next(iter(env.algorithms.values())).failed) for name, env in environments.items()}
    decided: dict[str, list[Pair]] = {name: [] for name in environments}
    for (name, pair), p in zip(pairs, adjusted, strict=True):
        both = environments[name].algorithms
        detectable = math.nan  # with too few seeds no difference is claimed, however large
        if seeds[name] >= st.FEWEST_SEEDS and not pair.failed:
            gap = st.two_way(as_array(both[pair.a].final) - as_array(both[pair.b].final))
            detectable = st.detectable(st.unbiased(gap.se, gap.df), gap.df, tests)
        claimed = seeds[name] >= st.FEWEST_SEEDS and p < st.ALPHA
        better = pair.a if (pair.difference.value or 0.0) > 0 else pair.b
        found = replace(pair, p_holm=finite(p), detectable=finite(detectable), winner=better if claimed else None)
        decided[name].append(replace(found, sentence=_sentence(found, name, seeds[name])))
    return {name: replace(env, pairs=decided[name]) for name, env in environments.items()}


def _sentence(pair: Pair, env: str, seeds: int) -> str:
    d = pair.difference
    if pair.failed:
        return f"{' and '.join(pair.failed)} failed at every seed on {env}, so {pair.a} and {pair.b} are not compared."
    if d.value is None:
        return f"Nothing can be said of {pair.a} and {pair.b} on {env}."
    if pair.identical:
        return f"{pair.a} and {pair.b} gave identical results on {env}: the same reward on every prompt at every seed."
    up = d.value >= 0
    high, low = (pair.a, pair.b) if up else (pair.b, pair.a)
    size = f"{abs(d.value):.3f}"
    if d.low is None or d.high is None:
        return f"{high} ended {size} above {low} on {env}; one seed gives no interval."
    bounds = (d.low, d.high) if up else (-d.high, -d.low)
    what = f"{size} above {low} on {env}, 95 % CI [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
    if pair.winner:
        return f"{high} ended {what}, {_p(pair.p_holm)} after Holm's correction."
    if seeds < st.FEWEST_SEEDS:
        return f"{high} ended {what}; {seeds} seeds are too few to name a winner."
    return f"{high} ended {what}, {_p(pair.p_holm)} after Holm's correction: no claim."


def _p(p: float | None) -> str:
    return "p unknown" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
