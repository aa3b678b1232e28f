"""From the records of a study to its results: per environment, per algorithm, per pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlalign.compare import statistics as st
from rlalign.compare.records import HELD_OUT, TRAINING, Record
from rlalign.compare.results import (
    BUDGETS,
    Aggregate,
    AlgorithmResult,
    Curve,
    EnvResult,
    Estimate,
    Pair,
    Profile,
    Sample,
    Spread,
    ToThreshold,
)
from rlalign.types import FloatArray

_SAMPLES = 6  # prompts shown side by side
_LEAST_KL = 0.01  # nats; below, runs have not moved and there is nothing to compare at equal KL
_TAUS = 41

TWO_WAY = "t, seeds × prompts"
OVER_SEEDS = "t, over seeds"
BOOTSTRAP = "expanded percentile bootstrap"
NOTHING = Estimate(None, None, None)

Grid = Mapping[str, Mapping[int, Record]]
"""Algorithm -> seed -> record, every seed for every algorithm."""


def analyse_env(grid: Grid, threshold: float | None = None) -> EnvResult:
    """One environment's results; the corrected p of its pairs and its winners are for `decide`.

    A failed cell counts as the start: who got no policy has the one he began with.
    """
    records = [r for row in grid.values() for r in row.values()]
    done = [r for r in records if r.failure is None]
    held_out = all(r.held_out is not None for r in done)
    prompts = done[0].prompts
    start = _starts(grid)
    everyone = float(np.nanmean(np.concatenate([s["reward"] for s in start.values()])))
    finals = {name: _matrix(row, "reward", start) for name, row in grid.items()}
    seeds_of = {name: np.nanmean(x, axis=1) for name, x in finals.items()}
    best = max(float(np.mean(v)) for v in seeds_of.values())
    rule = "as asked"
    if threshold is None and best > everyone:
        threshold = everyone + 0.5 * (best - everyone)
        rule = "half the way from the start to the best algorithm's mean"
    curves = {n: [_curve(r, held_out, start[s]) for s, r in row.items()] for n, row in grid.items()}
    whole = [c for n, row in grid.items() for c, r in zip(curves[n], row.values(), strict=True) if r.failure is None]
    until = {b: min(getattr(c, b)[-1] for c in whole) for b in BUDGETS}
    level = min((max((k for k in c.kl if k is not None), default=0.0) for c in whole), default=0.0)
    kl_level = level if level > _LEAST_KL else None
    highest = max(float(v.max()) for v in seeds_of.values())
    taus = np.linspace(min(everyone, *(float(v.min()) for v in seeds_of.values())), highest, _TAUS)
    algorithms = {
        name: _algorithm(row, finals[name], start, curves[name], until, threshold, kl_level, taus)
        for name, row in grid.items()
    }
    first = done[0].cell.config
    return EnvResult(
        steps=first.steps,
        samples_per_step=first.samples_per_step,
        prompts=prompts,
        split=first.evaluation.split,
        curve=HELD_OUT if held_out else TRAINING,
        threshold=threshold,
        threshold_rule=rule if threshold is not None else "none: no algorithm ended above the start",
        kl_level=kl_level,
        reward_scale=(everyone, highest),
        algorithms=algorithms,
        pairs=[_pair(a, b, algorithms) for a, b in itertools.combinations(grid, 2)],
        samples=_samples(grid),
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
        detectable = math.nan
        if not pair.failed:
            gap = st.two_way(as_array(both[pair.a].final) - as_array(both[pair.b].final))
            detectable = st.detectable(st.unbiased(gap.se, gap.df), gap.df, tests)
        claimed = seeds[name] >= st.FEWEST_SEEDS and p < st.ALPHA
        better = pair.a if (pair.difference.value or 0.0) > 0 else pair.b
        found = replace(pair, p_holm=_finite(p), detectable=_finite(detectable), winner=better if claimed else None)
        decided[name].append(replace(found, sentence=_sentence(found, name, seeds[name])))
    return {name: replace(env, pairs=decided[name]) for name, env in environments.items()}


def aggregate(environments: Mapping[str, EnvResult], algorithms: Sequence[str]) -> Aggregate | None:
    """Over environments, rescaled to the start and the best seed; None for fewer than two that can be rescaled."""
    scales = {n: e.reward_scale for n, e in environments.items()}
    usable = [n for n, (low, high) in scales.items() if low is not None and high is not None and high > low]
    if len(usable) < 2:
        return None

    def scores(algorithm: str) -> list[FloatArray]:
        found = []
        for name in usable:
            low, high = scales[name]
            assert low is not None
            assert high is not None
            rewards = np.nanmean(as_array(environments[name].algorithms[algorithm].final), axis=1)
            found.append((rewards - low) / (high - low))
        return found

    strata = {a: scores(a) for a in algorithms}
    taus = np.linspace(min(0.0, *(float(x.min()) for s in strata.values() for x in s)), 1.0, _TAUS)
    statistics: dict[str, Callable[[FloatArray], FloatArray]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "iqm": st.iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    made = {
        name: {
            a: _estimate(st.bootstrap(strata[a], f, smooth=name == "median"), f"stratified {BOOTSTRAP}")
            for a in algorithms
        }
        for name, f in statistics.items()
    }
    profiles = {a: _profile(np.concatenate(strata[a]), taus) for a in algorithms}
    return Aggregate(mean=made["mean"], iqm=made["iqm"], median=made["median"], profile=profiles)


def as_array(rows: Sequence[Sequence[float | None]]) -> FloatArray:
    """A matrix of results.json, null as NaN."""
    return np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=float)


# ---- one algorithm ----


def _algorithm(
    row: Mapping[int, Record],
    final: FloatArray,
    start: Mapping[int, Mapping[str, FloatArray]],
    curves: Sequence[Curve],
    until: Mapping[str, float],
    threshold: float | None,
    kl_level: float | None,
    taus: FloatArray,
) -> AlgorithmResult:
    failed = [r.failure is not None for r in row.values()]
    begin = np.stack([start[s]["reward"] for s in row])
    layout, scores = st.two_way(final), np.nanmean(final, axis=1)
    median, covers = st.median_interval(scores)
    names = [k for k in next(iter(start.values())) if k != "reward"]
    at_kl = [] if kl_level is None else _at_kl(curves, failed, kl_level)
    auc_seeds = {
        b: [
            st.area(*_points(c, b), until[b]) if not f else float(np.nanmean(start[s]["reward"]))
            for s, c, f in zip(row, curves, failed, strict=True)
        ]
        for b in BUDGETS
    }
    return AlgorithmResult(
        final=final.tolist(),
        start=begin.tolist(),
        failed=failed,
        mean=_estimate(layout.interval, TWO_WAY),
        iqm=_estimate(st.bootstrap([scores], st.iqm), BOOTSTRAP),
        median=_estimate(median, "order statistics", covers if covers < st.LEVEL else st.LEVEL),
        gain=_estimate(st.two_way(final - begin).interval, TWO_WAY),
        spread=Spread(_finite(layout.sd_seed), _finite(layout.sd_prompt), _finite(layout.sd_rest)),
        metrics={k: _estimate(st.two_way(_matrix(row, k, start)).interval, TWO_WAY) for k in names},
        curves=list(curves),
        auc={b: _estimate(st.t_interval(v), OVER_SEEDS) for b, v in auc_seeds.items()},
        auc_seeds={b: [_finite(x) for x in v] for b, v in auc_seeds.items()},
        to_threshold={} if threshold is None else {b: _reach(curves, failed, b, until[b], threshold) for b in BUDGETS},
        profile=_profile(scores, taus),
        at_equal_kl=None if kl_level is None else _estimate(st.t_interval(at_kl), OVER_SEEDS),
        at_equal_kl_seeds=[_finite(x) for x in at_kl],
    )


def _reach(curves: Sequence[Curve], failed: Sequence[bool], budget: str, until: float, threshold: float) -> ToThreshold:
    spent, reached = [], []
    for curve, lost in zip(curves, failed, strict=True):
        value, got = st.first_reach(*_points(curve, budget), threshold) if not lost else (until, False)
        spent.append(value)
        reached.append(got)
    return ToThreshold(
        spent=spent,
        reached=reached,
        median=_finite(st.survival_median(np.array(spent), reached)),
        restricted_mean=_estimate(st.restricted_mean(np.array(spent), reached, until), OVER_SEEDS),
    )


def _at_kl(curves: Sequence[Curve], failed: Sequence[bool], level: float) -> list[float]:
    return [
        math.nan if lost else st.height_at(level, _floats(c.kl), _floats(c.reward))
        for c, lost in zip(curves, failed, strict=True)
    ]


def _profile(scores: FloatArray, taus: FloatArray) -> Profile:
    share, low, high = st.profile(scores, taus)
    return Profile(taus.tolist(), share.tolist(), low.tolist(), high.tolist())


# ---- two algorithms ----


def _pair(a: str, b: str, algorithms: Mapping[str, AlgorithmResult]) -> Pair:
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
        difference=_estimate(gap.interval, TWO_WAY),
        p=_finite(gap.p),
        p_holm=None,
        probability_of_improvement=_estimate(st.probability_of_improvement(*scores), "Newcombe"),
        detectable=None,
        winner=None,
        auc={
            k: _estimate(st.t_interval(_floats(x.auc_seeds[k]) - _floats(y.auc_seeds[k])), OVER_SEEDS) for k in BUDGETS
        },
        at_equal_kl=None
        if x.at_equal_kl is None
        else _estimate(st.t_interval(_floats(x.at_equal_kl_seeds) - _floats(y.at_equal_kl_seeds)), OVER_SEEDS),
        threshold_p={
            k: _finite(
                st.logrank_p(
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


# ---- pieces ----


def _starts(grid: Grid) -> dict[int, dict[str, FloatArray]]:
    """Seed -> metric -> [P] before training, from whichever algorithm has it: all begin with the same weights."""
    found: dict[int, dict[str, FloatArray]] = {}
    rows = list(grid.values())
    fallback = next(r.before for row in rows for r in row.values() if r.before)
    for seed in rows[0]:
        found[seed] = next((row[seed].before for row in rows if row[seed].before), fallback)
    return found


def _matrix(row: Mapping[int, Record], name: str, start: Mapping[int, Mapping[str, FloatArray]]) -> FloatArray:
    shape = next(iter(start.values()))["reward"].shape
    missing = np.full(shape, math.nan)
    return np.stack([(r.after if r.failure is None else start[s]).get(name, missing) for s, r in row.items()])


def _curve(record: Record, held_out: bool, start: Mapping[str, FloatArray]) -> Curve:
    curve = record.held_out if held_out else record.training
    if curve is not None and curve.step:
        return curve
    return Curve([0], [0.0], [0.0], [0.0], [0.0], [float(np.nanmean(start["reward"]))], [0.0])


def _points(curve: Curve, budget: str) -> tuple[FloatArray, FloatArray]:
    return np.array(getattr(curve, budget), dtype=float), _floats(curve.reward)


def _floats(values: Sequence[float | None]) -> FloatArray:
    return np.array([math.nan if v is None else v for v in values], dtype=float)


def _samples(grid: Grid) -> list[Sample]:
    first = next(iter(grid.values()))
    seed = next((s for s in first if all(row[s].failure is None for row in grid.values())), None)
    if seed is None:
        return []
    found = []
    for i, sample in enumerate(first[seed].samples[:_SAMPLES]):
        texts: dict[str, Any] = {name: row[seed].samples[i]["after"][0] for name, row in grid.items()}
        rewards = {name: _finite(float(row[seed].after["reward"][i])) for name, row in grid.items()}
        found.append(Sample(sample["prompt"], seed, sample["before"][0], texts, rewards))
    return found


def _estimate(interval: st.Interval, method: str, level: float = st.LEVEL) -> Estimate:
    return Estimate(_finite(interval.value), _finite(interval.low), _finite(interval.high), method, level)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
