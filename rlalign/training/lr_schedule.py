"""The learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from rlalign.config.schema import LearnerConfig


def lr_factor(config: LearnerConfig, total: int) -> Callable[[int], float]:
    """Factor of the learning rate at an update, of `total`: linear warmup, then the schedule."""

    def factor(update: int) -> float:
        if update < config.warmup:
            return (update + 1) / config.warmup
        if config.lr_schedule == "constant":
            return 1.0
        share = min(1.0, (update - config.warmup) / max(1, total - config.warmup))
        return 1.0 - share if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))

    return factor
