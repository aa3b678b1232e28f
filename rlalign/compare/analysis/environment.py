"""Results of one environment, from the records of its cells: algorithms, pairs, and samples side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.algorithms import UNTRAINED
from rlalign.compare.analysis.aggregate import PROFILE_THRESHOLDS
from rlalign.compare.analysis.algorithm import Shared, Starts, analyze_algorithm, metric_matrix
from rlalign.compare.analysis.estimates import finite
from rlalign.compare.analysis.pairs import compare_pair
from rlalign.compare.records.run_records import HELD_OUT, TRAINING, Record
from rlalign.compare.results.schema import BUDGETS, Curve, EnvResult, Sample
from rlalign.evaluation.transcripts import sample_texts
from rlalign.types import FloatArray

_SAMPLES = 6  # prompts shown side by side
_LEAST_KL = 0.01  # nats; below this KL the policies have hardly changed, and nothing is compared at equal KL

Grid = Mapping[str, Mapping[int, Record]]
"""Algorithm -> seed -> record, with every seed for every algorithm."""


def analyze_environment(grid: Grid, threshold: float | None = None) -> EnvResult:
    """Return the results of one environment.

    A failed seed is scored as the initial policy. `pairs.decide` adds corrected p-values and winners.

    Args:
        grid: records; at least one cell is finished.
        threshold: reward that counts as reached; None: halfway from the initial policy's mean to the best algorithm's
            mean, or none if no algorithm ended above the initial policy.
    """
    records = [record for row in grid.values() for record in row.values()]
    done = [record for record in records if record.failure is None]
    held_out = all(record.held_out is not None for record in done)
    starts = _starts(grid)
    start_mean = float(np.nanmean(np.concatenate([metrics["reward"] for metrics in starts.values()])))
    finals = {algorithm: metric_matrix(row, "reward", starts) for algorithm, row in grid.items()}
    scores = {algorithm: np.nanmean(final, axis=1) for algorithm, final in finals.items()}
    best = max(float(np.mean(values)) for values in scores.values())
    rule = "as requested"
    if threshold is None and best > start_mean:
        threshold = start_mean + 0.5 * (best - start_mean)
        rule = "halfway from the initial policy's mean to the best algorithm's mean"
    curves = {name: [_curve(r, held_out, starts[seed]) for seed, r in row.items()] for name, row in grid.items()}
    complete = _complete_curves(grid, curves)
    kl_level = _common_kl(complete)
    highest = max(float(values.max()) for values in scores.values())
    lowest = min(start_mean, *(float(values.min()) for values in scores.values()))
    shared = Shared(
        starts=starts,
        until={budget: min(getattr(curve, budget)[-1] for curve in complete) for budget in BUDGETS},
        threshold=threshold,
        kl_level=kl_level,
        taus=np.linspace(lowest, highest, PROFILE_THRESHOLDS),
    )
    algorithms = {name: analyze_algorithm(row, finals[name], curves[name], shared) for name, row in grid.items()}
    config = done[0].cell.config
    return EnvResult(
        steps=config.steps,
        samples_per_step=config.samples_per_step,
        prompts=done[0].prompts,
        split=config.evaluation.split,
        curve=HELD_OUT if held_out else TRAINING,
        threshold=threshold,
        threshold_rule=rule if threshold is not None else "none: no algorithm ended above the initial policy",
        kl_level=kl_level,
        reward_scale=(start_mean, highest),
        algorithms=algorithms,
        pairs=[compare_pair(a, b, algorithms) for a, b in itertools.combinations(grid, 2)],
        samples=_samples(grid),
    )


def _starts(grid: Grid) -> Starts:
    """Return seed -> metric -> [P] before training.

    At one seed all algorithms begin with the same weights, so any record of the seed that has the values is used. A
    seed at which every cell failed gets the values of another seed.
    """
    rows = list(grid.values())
    fallback = next(record.before for row in rows for record in row.values() if record.before)
    return {seed: next((row[seed].before for row in rows if row[seed].before), fallback) for seed in rows[0]}


def _curve(record: Record, held_out: bool, start: Mapping[str, FloatArray]) -> Curve:
    """Return a record's learning curve; one point, the initial policy, if it has none."""
    curve = record.held_out if held_out else record.training
    if curve is not None and curve.step:
        return curve
    return Curve([0], [0.0], [0.0], [0.0], [0.0], [float(np.nanmean(start["reward"]))], [0.0])


def _complete_curves(grid: Grid, curves: Mapping[str, Sequence[Curve]]) -> list[Curve]:
    """Return the learning curves of the finished cells; those of competitors without training only if all are."""
    complete: list[tuple[bool, Curve]] = []
    for algorithm, row in grid.items():
        for curve, record in zip(curves[algorithm], row.values(), strict=True):
            if record.failure is None:
                complete.append((record.cell.config.algorithm in UNTRAINED, curve))
    # a budget of 0 is not one that the others can be compared at
    trained = [curve for untrained, curve in complete if not untrained]
    return trained or [curve for _, curve in complete]


def _common_kl(curves: Sequence[Curve]) -> float | None:
    """Return the largest KL that every curve reached; None if it is too small for a comparison."""
    level = min((max((kl for kl in curve.kl if kl is not None), default=0.0) for curve in curves), default=0.0)
    return level if level > _LEAST_KL else None


def _samples(grid: Grid) -> list[Sample]:
    """Return completions of the first prompts at the first seed at which no algorithm failed."""
    first = next(iter(grid.values()))
    seed = next((s for s in first if all(row[s].failure is None for row in grid.values())), None)
    if seed is None:
        return []
    samples = []
    for i, sample in enumerate(first[seed].samples[:_SAMPLES]):
        completions: dict[str, Any] = {
            name: sample_texts(row[seed].samples[i], "after")[0] for name, row in grid.items()
        }
        rewards = {name: finite(float(row[seed].after["reward"][i])) for name, row in grid.items()}
        samples.append(Sample(sample["prompt"], seed, sample_texts(sample, "before")[0], completions, rewards))
    return samples
