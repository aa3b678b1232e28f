"""Results of one algorithm on one environment, from the records of its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlalign.algorithms import BEST_OF_N
from rlalign.compare.analysis import learning_curves
from rlalign.compare.analysis.aggregate import profile_of
from rlalign.compare.analysis.estimates import BOOTSTRAP, OVER_SEEDS, TWO_WAY, estimate, finite, floats
from rlalign.compare.analysis.intervals import LEVEL, bootstrap, iqm, median_interval
from rlalign.compare.analysis.two_way import t_interval, two_way
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import BUDGETS, AlgorithmResult, Curve, Spread, ToThreshold
from rlalign.types import FloatArray

Starts = Mapping[int, Mapping[str, FloatArray]]
"""Seed -> held-out metric -> [P], one value per prompt, before training."""


@dataclass(frozen=True)
class Shared:
    """Quantities that all algorithms of an environment share.

    Attributes:
        starts: held-out metrics of the initial policies.
        until: budget -> amount that every finished run had.
        threshold: reward that counts as reached; None: none.
        kl_level: KL that every finished run reached; None: none.
        taus: thresholds of the performance profiles.
    """

    starts: Starts
    until: Mapping[str, float]
    threshold: float | None
    kl_level: float | None
    taus: FloatArray


def analyze_algorithm(
    row: Mapping[int, Record], final: FloatArray, curves: Sequence[Curve], shared: Shared
) -> AlgorithmResult:
    """Return the results of one algorithm.

    Args:
        row: seed -> record.
        final: held-out rewards after training [seeds, prompts]; of a failed seed, those of the initial policy.
        curves: learning curve per seed.
        shared: quantities of the environment.
    """
    starts = shared.starts
    failed = [record.failure is not None for record in row.values()]
    start = np.stack([starts[seed]["reward"] for seed in row])
    layout = two_way(final)
    scores = np.nanmean(final, axis=1)
    median, coverage = median_interval(scores)
    matrices = {name: metric_matrix(row, name, starts) for name in next(iter(starts.values())) if name != "reward"}
    areas = {budget: _areas(row, curves, shared, budget) for budget in BUDGETS}
    to_threshold = {}
    if shared.threshold is not None:
        for budget in BUDGETS:
            to_threshold[budget] = _to_threshold(curves, failed, budget, shared.until[budget], shared.threshold)
    at_kl: list[float] = []
    if shared.kl_level is not None:
        at_kl = _rewards_at_kl(curves, failed, shared.kl_level)
    return AlgorithmResult(
        final=final.tolist(),
        start=start.tolist(),
        failed=failed,
        mean=estimate(layout.interval, TWO_WAY),
        iqm=estimate(bootstrap([scores], iqm), BOOTSTRAP),
        median=estimate(median, "order statistics", coverage if coverage < LEVEL else LEVEL),
        gain=estimate(two_way(final - start).interval, TWO_WAY),
        spread=Spread(finite(layout.sd_seed), finite(layout.sd_prompt), finite(layout.sd_rest)),
        metrics={
            name: estimate(two_way(values).interval, TWO_WAY)
            for name, values in matrices.items()
            if np.isfinite(values).any()  # best_of_n has no sampled KL
        },
        curves=list(curves),
        auc={budget: estimate(t_interval(values), OVER_SEEDS) for budget, values in areas.items()},
        auc_seeds={budget: [finite(value) for value in values] for budget, values in areas.items()},
        to_threshold=to_threshold,
        profile=profile_of(scores, shared.taus),
        at_equal_kl=None if shared.kl_level is None else estimate(t_interval(at_kl), OVER_SEEDS),
        at_equal_kl_seeds=[finite(value) for value in at_kl],
        samples_per_answer=_samples_per_answer(row),
    )


def _samples_per_answer(row: Mapping[int, Record]) -> int:
    config = next(iter(row.values())).cell.config
    return config.evaluation.best_of if config.algorithm == BEST_OF_N else 1


def metric_matrix(row: Mapping[int, Record], name: str, starts: Starts) -> FloatArray:
    """Return a held-out metric after training [seeds, prompts].

    A failed seed has the values of the initial policy. A metric that a seed lacks is NaN.
    """
    shape = next(iter(starts.values()))["reward"].shape
    missing = np.full(shape, math.nan)
    values = []
    for seed, record in row.items():
        metrics = record.after if record.failure is None else starts[seed]
        values.append(metrics.get(name, missing))
    return np.stack(values)


def _areas(row: Mapping[int, Record], curves: Sequence[Curve], shared: Shared, budget: str) -> list[float]:
    """Return the normalized area under each seed's learning curve; of a failed seed, the initial policy's reward."""
    areas = []
    for (seed, record), curve in zip(row.items(), curves, strict=True):
        if record.failure is None:
            areas.append(learning_curves.normalized_area(*_points(curve, budget), shared.until[budget]))
        else:
            areas.append(float(np.nanmean(shared.starts[seed]["reward"])))
    return areas


def _to_threshold(
    curves: Sequence[Curve], failed: Sequence[bool], budget: str, until: float, threshold: float
) -> ToThreshold:
    """Return the budget until the threshold; a failed seed is right-censored at `until`."""
    spent: list[float] = []
    reached: list[bool] = []
    for curve, seed_failed in zip(curves, failed, strict=True):
        value, success = until, False
        if not seed_failed:
            value, success = learning_curves.budget_to_threshold(*_points(curve, budget), threshold)
        spent.append(value)
        reached.append(success)
    return ToThreshold(
        spent=spent,
        reached=reached,
        median=finite(learning_curves.kaplan_meier_median(np.array(spent), reached)),
        restricted_mean=estimate(learning_curves.restricted_mean(np.array(spent), reached, until), OVER_SEEDS),
    )


def _rewards_at_kl(curves: Sequence[Curve], failed: Sequence[bool], level: float) -> list[float]:
    """Return each seed's reward where its learning curve first reaches a KL; NaN for a failed seed."""
    rewards = []
    for curve, seed_failed in zip(curves, failed, strict=True):
        reward = learning_curves.reward_at_kl(level, floats(curve.kl), floats(curve.reward))
        rewards.append(math.nan if seed_failed else reward)
    return rewards


def _points(curve: Curve, budget: str) -> tuple[FloatArray, FloatArray]:
    """Return (budget, reward) at the points of a curve."""
    return np.array(getattr(curve, budget), dtype=float), floats(curve.reward)
