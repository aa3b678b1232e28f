"""The shares that the environments of a former run had among its prompts, as fixed weights of their mixture."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.weights import Weights
from rlalign.storage.jsonl import read_metrics


def steps_done(folder: Path, config: TrainConfig) -> int:
    """Return the number of steps that a run did, which may have ended early; without metrics.jsonl, `steps`.

    Args:
        folder: of the run.
        config: its configuration.

    Raises:
        FaultError: its metrics.jsonl is damaged.
    """
    return len(read_metrics(folder)) or config.steps


def with_former_shares(mdp: TextMDP, config: TrainConfig, steps: int) -> TextMDP:
    """Return the environment of a former run; a mixture has its mean shares as weights, at every step.

    ::

        share = 1/T · Σ_(t < T) w_t / Σ w_t,    w_t: the weights at step t, with tasks.temperature

    Args:
        mdp: its environment.
        config: its configuration, whose `tasks.mixing` is weights (see `check_continual`).
        steps: T, the number of steps that it did.

    Raises:
        UserError: `tasks.temperature` needs the number of tasks of an unbounded source.
    """
    if not isinstance(mdp, Mixture):
        return mdp
    sizes = {name: part.source.size("train") for name, part in mdp.parts.items()}
    rows = []
    for step in range(max(steps, 1)):
        weights = mdp.weights.at(step, temperature=config.tasks.temperature, sizes=sizes)
        total = sum(weights.values())
        rows.append([weights[name] / total for name in mdp.parts])
    mixture = copy.copy(mdp)
    mixture.weights = Weights(dict(zip(mdp.parts, np.mean(rows, axis=0).tolist(), strict=True)))
    return mixture
