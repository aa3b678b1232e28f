"""From the records of an environment to its results: each algorithm by itself, and what all have in common."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.compare.analysis import curves as cv
from rlalign.compare.analysis import statistics as st
from rlalign.compare.analysis.aggregate import TAUS, profile_of
from rlalign.compare.analysis.estimates import BOOTSTRAP, OVER_SEEDS, TWO_WAY, estimate, finite, floats
from rlalign.compare.analysis.pairs import pair_of
from rlalign.compare.records.run_records import HELD_OUT, TRAINING, Record
from rlalign.compare.results.schema import (
    BUDGETS,
    AlgorithmResult,
    Curve,
    EnvResult,
    Sample,
    Spread,
    ToThreshold,
)
from rlalign.types import FloatArray

_SAMPLES = 6  # prompts shown side by side
_LEAST_KL = 0.01  # nats; below, runs have not moved and there is nothing to compare at equal KL

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
    taus = np.linspace(min(everyone, *(float(v.min()) for v in seeds_of.values())), highest, TAUS)
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
        pairs=[pair_of(a, b, algorithms) for a, b in itertools.combinations(grid, 2)],
        samples=_samples(grid),
    )


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
            cv.area(*_points(c, b), until[b]) if not f else float(np.nanmean(start[s]["reward"]))
            for s, c, f in zip(row, curves, failed, strict=True)
        ]
        for b in BUDGETS
    }
    return AlgorithmResult(
        final=final.tolist(),
        start=begin.tolist(),
        failed=failed,
        mean=estimate(layout.interval, TWO_WAY),
        iqm=estimate(st.bootstrap([scores], st.iqm), BOOTSTRAP),
        median=estimate(median, "order statistics", covers if covers < st.LEVEL else st.LEVEL),
        gain=estimate(st.two_way(final - begin).interval, TWO_WAY),
        spread=Spread(finite(layout.sd_seed), finite(layout.sd_prompt), finite(layout.sd_rest)),
        metrics={k: estimate(st.two_way(_matrix(row, k, start)).interval, TWO_WAY) for k in names},
        curves=list(curves),
        auc={b: estimate(st.t_interval(v), OVER_SEEDS) for b, v in auc_seeds.items()},
        auc_seeds={b: [finite(x) for x in v] for b, v in auc_seeds.items()},
        to_threshold={} if threshold is None else {b: _reach(curves, failed, b, until[b], threshold) for b in BUDGETS},
        profile=profile_of(scores, taus),
        at_equal_kl=None if kl_level is None else estimate(st.t_interval(at_kl), OVER_SEEDS),
        at_equal_kl_seeds=[finite(x) for x in at_kl],
    )


def _reach(curves: Sequence[Curve], failed: Sequence[bool], budget: str, until: float, threshold: float) -> ToThreshold:
    spent, reached = [], []
    for curve, lost in zip(curves, failed, strict=True):
        value, got = cv.first_reach(*_points(curve, budget), threshold) if not lost else (until, False)
        spent.append(value)
        reached.append(got)
    return ToThreshold(
        spent=spent,
        reached=reached,
        median=finite(cv.survival_median(np.array(spent), reached)),
        restricted_mean=estimate(cv.restricted_mean(np.array(spent), reached, until), OVER_SEEDS),
    )


def _at_kl(curves: Sequence[Curve], failed: Sequence[bool], level: float) -> list[float]:
    return [
        math.nan if lost else cv.height_at(level, floats(c.kl), floats(c.reward))
        for c, lost in zip(curves, failed, strict=True)
    ]


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
    return np.array(getattr(curve, budget), dtype=float), floats(curve.reward)


def _samples(grid: Grid) -> list[Sample]:
    first = next(iter(grid.values()))
    seed = next((s for s in first if all(row[s].failure is None for row in grid.values())), None)
    if seed is None:
        return []
    found = []
    for i, sample in enumerate(first[seed].samples[:_SAMPLES]):
        texts: dict[str, Any] = {name: row[seed].samples[i]["after"][0] for name, row in grid.items()}
        rewards = {name: finite(float(row[seed].after["reward"][i])) for name, row in grid.items()}
        found.append(Sample(sample["prompt"], seed, sample["before"][0], texts, rewards))
    return found
