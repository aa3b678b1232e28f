"""Learning curves of a run against samples, tokens, updates and seconds, from its metrics.jsonl."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlalign.compare.results.schema import Curve
from rlalign.config.schema import TrainConfig


def held_out_curve(config: TrainConfig, rows: list[dict[str, Any]], start: float) -> Curve | None:
    """Return the curve of the held-out reward; None if the run was not evaluated during training.

    The first point is the initial policy. The others follow the steps that ended in an evaluation.

    Args:
        config: configuration of the run.
        rows: rows of metrics.jsonl.
        start: held-out reward before training.
    """
    evaluated = [i for i, row in enumerate(rows) if row.get("eval/reward") is not None]
    if not evaluated:
        return None
    spent = cumulative_budgets(config, rows)
    return Curve(
        step=[0, *(int(rows[i]["step"]) for i in evaluated)],
        samples=[0.0, *(spent["samples"][i + 1] for i in evaluated)],
        tokens=[0.0, *(spent["tokens"][i + 1] for i in evaluated)],
        updates=[0.0, *(spent["updates"][i + 1] for i in evaluated)],
        seconds=[0.0, *(spent["seconds"][i + 1] for i in evaluated)],
        reward=[start, *(rows[i]["eval/reward"] for i in evaluated)],
        kl=[0.0, *(rows[i].get("eval/kl") for i in evaluated)],
    )


def training_curve(config: TrainConfig, rows: list[dict[str, Any]]) -> Curve:
    """Return the curve of the reward of the training samples.

    The samples of step k come from the policy after k − 1 steps, so their reward is placed there.

    Args:
        config: configuration of the run.
        rows: rows of metrics.jsonl.
    """
    spent = cumulative_budgets(config, rows)
    return Curve(
        step=[int(row["step"]) - 1 for row in rows],
        samples=spent["samples"][:-1],
        tokens=spent["tokens"][:-1],
        updates=spent["updates"][:-1],
        seconds=spent["seconds"][:-1],
        reward=[row.get("reward/mean") for row in rows],
        kl=[row.get("rollout/kl") for row in rows],
    )


def untrained_curve(reward: float) -> Curve:
    """Return the curve of a competitor that trains nothing: one point, its reward at every budget of 0.

    Args:
        reward: held-out reward, such as that of best-of-n.
    """
    return Curve([0], [0.0], [0.0], [0.0], [0.0], [reward], [None])


def cumulative_budgets(config: TrainConfig, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return budget -> amount spent before each step and after the last, len(rows) + 1 values.

    Samples that dynamic sampling discarded count, and so do the completions of greedy baselines. Their tokens are not
    logged: they are counted as if these samples had the mean length of the others. The completions that a run on
    recorded data reads count as its samples: somebody wrote or sampled them.

    Args:
        config: configuration of the run.
        rows: rows of metrics.jsonl.
    """
    # A greedy baseline (ReMax) generates one completion per group beside the group's samples.
    greedy = 1 + (1 / config.rollout.group_size if config.objective.needs_greedy else 0.0)
    updates = config.learner.epochs * config.learner.minibatches
    steps = {
        "samples": [config.samples_per_step * greedy * (row.get("rollout/draws") or 1.0) for row in rows],
        "tokens": [
            float(row.get("rollout/tokens") or 0.0) * greedy * (row.get("rollout/draws") or 1.0) for row in rows
        ],
        "updates": [updates * (1.0 - (row.get("train/skipped") or 0.0)) for row in rows],
        "seconds": [row.get("time/step") or 0.0 for row in rows],
    }
    return {name: [0.0, *np.cumsum(values).tolist()] for name, values in steps.items()}
