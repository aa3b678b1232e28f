"""What is logged of a rollout: pure functions from trajectories to numbers and sample texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlalign.rollout.collect import Rollout
from rlalign.rollout.dynamic_sampling import has_reward_variance


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """rollout/ and reward/ metrics of N trajectories."""
    returns = rollout.returns.double()
    seen = returns[torch.isfinite(returns)]
    std = float(seen.std()) if len(seen) > 1 else 0.0
    metrics = {
        "reward/mean": float(seen.mean()) if len(seen) else float("nan"),
        "reward/std": std,
        "reward/ci95": 1.96 * std / max(len(seen), 1) ** 0.5,
        "reward/invalid": float((~rollout.valid).double().mean()),
    }
    for name, values in sorted(rollout.components.items()):
        key = f"reward/{name}"
        metrics[f"{key}_component" if key in metrics else key] = float(values.nanmean())
    metrics |= {
        "rollout/length": float(rollout.num_actions.double().mean()),
        "rollout/tokens": float(rollout.num_actions.sum()),
        "rollout/truncated": float(rollout.truncated.double().mean()),
        # the sampled estimate of the policy's entropy per token, in nats
        "rollout/entropy": float(-rollout.sampler_logprobs.sum() / rollout.num_actions.sum()),
        "rollout/signal": float(has_reward_variance(rollout).double().mean()),
    }
    return metrics


def kl_metric(rollout: Rollout, reference: torch.Tensor | None) -> dict[str, float]:
    """rollout/kl: log pi/ref of what was sampled, nats per completion; nothing where no reference [N, L] was asked."""
    if reference is None:
        return {}
    return {"rollout/kl": float((rollout.sampler_logprobs - reference.cpu()).sum(1).mean())}


def samples_of(rollout: Rollout, count: int = 4) -> list[dict[str, Any]]:
    """A few trajectories of different groups, for samples.jsonl."""
    _, first = np.unique(rollout.group_ids.numpy(), return_index=True)
    return [
        {
            "prompt": rollout.prompts[i],
            "completion": rollout.completions[i],
            "reward": float(rollout.returns[i]),
            **{f"reward/{k}": float(v[i]) for k, v in rollout.components.items()},
        }
        for i in first[:count].tolist()
    ]
