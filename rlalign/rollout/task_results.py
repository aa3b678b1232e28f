"""The results of the tasks of a rollout, which the order of tasks reads: mean rewards and shares of successes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.mixture.stream import task_stream
from rlalign.envs.task_order.sampler import TaskResult
from rlalign.errors import UserError
from rlalign.registry import TASK_ORDERS
from rlalign.rewards.specs import WeightedReward, resolve
from rlalign.rollout.collect import Rollout
from rlalign.types import BoolArray, FloatArray

VERIFIERS = ("exact_match", "math_verify", "code", "label_match")
"""Reward components whose value 1 means that the answer is correct."""


def task_results(rollout: Rollout, mdp: TextMDP, success: float | None = None) -> list[TaskResult]:
    """Return the result of each group of samples of a task, in the order of the rollout.

    Args:
        rollout: N trajectories.
        mdp: their environment.
        success: reward from which a completion is a success; None: the gold score of its environment, or a verifier
            among its rewards that is 1.
    """
    returns = rollout.returns.double().numpy()
    groups = rollout.group_ids.numpy()
    components = {name: values.numpy() for name, values in rollout.components.items()}
    thresholds = {
        name: gold_of_own_weights(part) if success is None else success for name, part in parts_of(mdp).items()
    }
    results = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.isfinite(returns[rows])]
        task = rollout.tasks[int(np.flatnonzero(groups == group)[0])]
        if not len(rows):
            results.append(TaskResult(task))
            continue
        # in a mixture a component may have the name of its environment behind its own
        values = {name.removesuffix(f"[{task.env}]"): column[rows] for name, column in components.items()}
        values = {name: column for name, column in values.items() if np.isfinite(column).any()}
        correct = successes(thresholds[task.env], {**values, "reward": returns[rows]})
        share = math.nan if correct is None else float(correct.mean())
        results.append(TaskResult(task, float(returns[rows].mean()), share, len(rows)))
    return results


def successes(threshold: float | None, metrics: Mapping[str, FloatArray]) -> BoolArray | None:
    """Return an array of flags, true for a correct answer; None if correctness is not defined.

    An answer is correct if its reward reaches the threshold or, without one, if a verifier component is 1.

    Args:
        threshold: such as the gold score of the environment; None: unknown.
        metrics: `reward` and the components, arrays of one shape.
    """
    if threshold is not None:
        return metrics["reward"] >= threshold - 1e-6  # a sum of weighted components is exact only to rounding
    verified = next((metrics[name] for name in VERIFIERS if name in metrics), None)
    return None if verified is None else verified >= 1.0


def gold_of_own_weights(mdp: TextMDP) -> float | None:
    """Return the gold score of an environment; None if it is unknown, or on the scale of other rewards or weights."""
    if mdp.gold_score is None or not mdp.has_reward:
        return None
    own = _own_rewards(tuple(mdp.rewards.items()))
    if dict(mdp.reward.weights) != {reward.name: weight for reward, weight in own}:
        return None
    used = {reward.name: reward.parameters for reward in getattr(mdp.reward, "functions", ())}
    is_own = all(used.get(reward.name, reward.parameters) == reward.parameters for reward, _ in own)
    return mdp.gold_score if is_own else None


@lru_cache(maxsize=64)
def _own_rewards(specs: tuple[tuple[Any, float], ...]) -> list[WeightedReward]:
    return resolve(dict(specs))


def check_task_order(config: TrainConfig, mdp: TextMDP) -> None:
    """Raise UserError if the order of tasks does not fit the environment, or needs a success that is not defined."""
    order: Any = TASK_ORDERS.get(config.tasks.order)
    task_stream(mdp, options=config.tasks)
    needs_success = getattr(order, "needs_success", False) or config.tasks.mixing == "difficulty"
    if not needs_success or config.tasks.success is not None:
        return
    for part in parts_of(mdp).values():
        if gold_of_own_weights(part) is None and not set(VERIFIERS) & set(part.reward.weights):
            name = "mixing difficulty" if config.tasks.mixing == "difficulty" else f"order {config.tasks.order}"
            raise UserError(
                f"tasks.{name}: expected an environment with a gold score or one of the rewards "
                f"{', '.join(VERIFIERS)}, got {part.id} with {', '.join(part.reward.weights) or 'no reward'}; use "
                "--tasks.success REWARD, the reward from which a completion is a success"
            )
