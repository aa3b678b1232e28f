"""Forgetting and backward transfer of one task, from the rewards of each stage on the same held-out prompts."""

from __future__ import annotations

import math

import numpy as np

from rlalign.evaluation.mean_interval import MeanInterval, mean_interval
from rlalign.types import FloatArray


def forgetting(rewards: FloatArray) -> MeanInterval:
    """Return how far a task's reward fell from its best former stage to the last stage.

    ::

        f = max_(l < S-1) R_l - R_(S-1)

    R_l is the mean reward of stage l. Positive: forgotten; negative: better than ever before. Source: Chaudhry et al.
    2018, arXiv 1801.10112, equation 3, with the untrained start as a stage: what a pretrained policy could do before
    any training can be forgotten too.

    The differences are paired over prompts. With m = S - 1 former stages, each difference R_l - R_(S-1) has a
    t-interval at the level 1 - 0.05/m (Bonferroni). The interval [largest lower bound, largest upper bound] covers f
    with at least 95 %: the m intervals hold together, and then so do the maxima. The estimate is a maximum of noisy
    means, and biased upwards for m > 1.

    Args:
        rewards: float [S, P], the mean reward of each stage on each prompt, in the order of training; NaN: not scored.

    Returns:
        The difference; NaN with one stage. `n` is the number of prompts of the best stage's difference.

    Example:
        >>> import numpy as np
        >>> fall = forgetting(np.array([[0.0, 0.1, 0.2], [1.0, 0.9, 0.8], [0.5, 0.3, 0.4]]))
        >>> round(fall.mean, 3)
        0.5
    """
    former = len(rewards) - 1
    if former < 1:
        return MeanInterval(math.nan, math.nan, math.nan, 0)
    intervals = [mean_interval(rewards[stage] - rewards[-1], 1 - 0.05 / former) for stage in range(former)]
    scored = [interval for interval in intervals if math.isfinite(interval.mean)]
    if not scored:
        return MeanInterval(math.nan, math.nan, math.nan, 0)
    best = max(scored, key=lambda interval: interval.mean)
    low, high = (np.array([getattr(interval, bound) for interval in scored]) for bound in ("low", "high"))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return MeanInterval(best.mean, math.nan, math.nan, best.n)
    return MeanInterval(best.mean, float(low.max()), float(high.max()), best.n)


def backward_transfer(rewards: FloatArray, learned: int | None) -> MeanInterval:
    """Return how much a task's reward changed after the stage that first trained on it.

    ::

        b = R_(S-1) - R_learned

    Negative: later stages unlearned it; positive: they helped. Source: Lopez-Paz and Ranzato 2017, arXiv 1706.08840,
    whose BWT is the mean of b over the tasks learned before the last stage. The differences are paired over prompts.

    Args:
        rewards: float [S, P], as for `forgetting`.
        learned: index of the stage that first trained on the task; None: none did.

    Returns:
        The difference with its 95 % t-interval; NaN for a task that no stage trained on, or the last one first.

    Example:
        >>> import numpy as np
        >>> change = backward_transfer(np.array([[0.0, 0.1], [1.0, 0.9], [0.5, 0.3]]), learned=1)
        >>> round(change.mean, 3)
        -0.55
    """
    if learned is None or learned >= len(rewards) - 1:
        return MeanInterval(math.nan, math.nan, math.nan, 0)
    return mean_interval(rewards[-1] - rewards[learned])
