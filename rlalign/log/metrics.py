"""Metrics and sample texts of a rollout, as pure functions of its trajectories."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rlalign.rollout.collect import Rollout
from rlalign.rollout.dynamic_sampling import has_reward_variance, select_rows
from rlalign.storage.jsonl import json_value

REWARD_STATISTICS = ("reward/mean", "reward/std", "reward/ci95", "reward/invalid")
"""Metrics under reward/ that describe the total reward; all others describe its components."""


REWARD_BY_ENVIRONMENT = re.compile(r"env/[^/]+/reward/mean")
"""Metrics with the mean reward of one environment of a mixture."""


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Return the rollout/ and reward/ metrics of N trajectories."""
    returns = rollout.returns.double()
    finite = returns[torch.isfinite(returns)]
    std = float(finite.std()) if len(finite) > 1 else 0.0
    metrics = {
        "reward/mean": float(finite.mean()) if len(finite) else math.nan,
        "reward/std": std,
        # half the width of the normal 95 % interval of the mean; samples of one prompt count as independent
        "reward/ci95": 1.96 * std / max(len(finite), 1) ** 0.5,
        "reward/invalid": float((~rollout.valid).double().mean()),
    }
    for name, values in sorted(rollout.components.items()):
        key = f"reward/{name}"
        # a component named like one of the metrics above, such as "mean", must not replace it
        metrics[f"{key}_component" if key in metrics else key] = float(values.nanmean())
    metrics |= {
        "rollout/length": float(rollout.num_actions.double().mean()),
        "rollout/tokens": float(rollout.num_actions.sum()),
        "rollout/truncated": float(rollout.truncated.double().mean()),
        # share of groups with nonzero reward variance
        "rollout/signal": float(has_reward_variance(rollout).double().mean()),
    }
    if rollout.sampler_logprobs is not None:
        # sample estimate of the policy's entropy per token, in nats
        metrics["rollout/entropy"] = float(-rollout.sampler_logprobs.sum() / rollout.num_actions.sum())
    return metrics


def environment_metrics(rollout: Rollout) -> dict[str, float]:
    """Return env/NAME/KEY, the reward/ and rollout/ metrics of each environment of a mixture; {} for one environment.

    env/NAME/share is the share of the step's trajectories. An environment without a trajectory in the step has no keys.
    """
    envs = [task.env for task in rollout.tasks]
    metrics: dict[str, float] = {}
    for name in sorted({env for env in envs if env}):
        rows = torch.tensor([env == name for env in envs])
        metrics[f"env/{name}/share"] = float(rows.double().mean())
        own = select_rows(rollout, rows)
        components = {key: values for key, values in own.components.items() if bool(values.isfinite().any())}
        # select_rows keeps the ids of the groups: those of other environments are groups without a row
        _, group_ids = np.unique(own.group_ids.numpy(), return_inverse=True)
        own = replace(own, components=components, group_ids=torch.from_numpy(group_ids))
        metrics |= {f"env/{name}/{key}": value for key, value in rollout_metrics(own).items()}
    return metrics


def recorded_metrics(rollout: Rollout, passes: float) -> dict[str, float]:
    """Return the metrics of N recorded trajectories: rollout/length, /tokens, /truncated and data/passes.

    Args:
        rollout: of the step.
        passes: passes over the data after the step.
    """
    return {
        "rollout/length": float(rollout.num_actions.double().mean()),
        "rollout/tokens": float(rollout.num_actions.sum()),
        "rollout/truncated": float(rollout.truncated.double().mean()),
        "data/passes": passes,
    }


def kl_metric(rollout: Rollout, reference: torch.Tensor | None, second: torch.Tensor | None = None) -> dict[str, float]:
    """Return rollout/kl, the mean over completions of Σ_t log π(a_t) − log π_ref(a_t), in nats per completion.

    Args:
        rollout: N trajectories, padded to length L.
        reference: log-probabilities of the sampled tokens under the reference policy, [N, L], or None if the objective
            uses no reference policy; the result is then empty.
        second: those under a second reference policy, [N, L]. rollout/kl is then the mean of both, which are
            rollout/kl_new and rollout/kl_previous. None: there is one only.
    """
    sampled = rollout.sampler_logprobs
    if reference is None or sampled is None:
        return {}
    first, *others = [float((sampled - ref.cpu()).sum(1).mean()) for ref in (reference, second) if ref is not None]
    if not others:
        return {"rollout/kl": first}
    return {"rollout/kl": (first + others[0]) / 2, "rollout/kl_new": first, "rollout/kl_previous": others[0]}


def logged_metrics(reward: Any) -> dict[str, float]:
    """Return reward/NAME/log/KEY: means of what reward functions passed to `log_metric` since the last call."""
    pop = getattr(reward, "pop_logged", dict)  # a user's own Reward may lack it
    return {f"reward/{name}": value for name, value in pop().items()}


def samples_of(rollout: Rollout, count: int = 4) -> list[dict[str, Any]]:
    """Return the first trajectory of each of `count` groups, for samples.jsonl.

    `prompt` and `completion` are texts, the latter without environment messages; `messages` is the whole trajectory
    with its roles, `columns` are those of the task, `extra` those that rewards logged.
    """
    _, first_rows = np.unique(rollout.group_ids.numpy(), return_index=True)
    return [
        {
            "prompt": rollout.prompts[i],
            "completion": rollout.completions[i],
            **({"env": rollout.tasks[i].env} if rollout.tasks[i].env else {}),
            "messages": rollout.messages[i],
            "columns": json_value(rollout.tasks[i].columns),
            **({"extra": json_value(rollout.extra[i])} if rollout.extra[i] else {}),
            "reward": float(rollout.returns[i]),
            **{f"reward/{name}": float(values[i]) for name, values in rollout.components.items()},
        }
        for i in first_rows[:count].tolist()
    ]
