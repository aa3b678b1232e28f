"""The learning rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from rlalign.config.schema import LearnerConfig


def lr_factor(config: LearnerConfig, total_updates: int) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the update, counted from 0.

    The factor rises linearly over `config.warmup` updates, then follows the schedule: constant 1; linear 1 - s; or
    cosine (1 + cos(pi s)) / 2, with s the share of the updates after warmup that are done.

    Args:
        config: schedule and warmup.
        total_updates: optimizer steps of the whole run.
    """

    def factor(update: int) -> float:
        if update < config.warmup:
            return (update + 1) / config.warmup
        if config.lr_schedule == "constant":
            return 1.0
        share = min(1.0, (update - config.warmup) / max(1, total_updates - config.warmup))
        return 1.0 - share if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))

    return factor
