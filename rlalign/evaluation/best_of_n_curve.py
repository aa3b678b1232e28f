"""Best-of-n of one policy on held-out prompts: its metrics and its KL for several n, from one set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import single
from rlalign.errors import UserError
from rlalign.evaluation.best_of_n import SAMPLES_PER_N, best_of_n, kl_upper_bound, powers_up_to
from rlalign.evaluation.enumeration import exact_kl_of
from rlalign.evaluation.evaluate import Evaluation, evaluate, prompt_means
from rlalign.evaluation.text_metrics import Report
from rlalign.policies.base import Policy
from rlalign.types import FloatArray, Sampling, Task

_SAMPLES_AT_ONCE = 64  # of one prompt; more are drawn in several evaluations with seeds of their own
_SEED_STRIDE = 1_000_003  # between these seeds: evaluations of neighboring seeds must not share samples

NOT_KEPT = ("kl", "entropy", "distinct_2")
"""Metrics without a meaning for the kept completion: its distribution is not the policy's. `distinct_2` is not defined
for short completions, and to leave these out would change which one is kept."""


@dataclass(frozen=True)
class BestOfNCurve:
    """Best-of-n for several n.

    Attributes:
        numbers: n, ascending from 1.
        samples: completions per prompt of which the estimates are made.
        kl_bounds: upper bound of the KL to the sampled policy per n, nats (see `kl_upper_bound`).
        kl_exact: that KL per n, mean over prompts, where all completions can be enumerated; else None.
        metrics: name -> float [len(numbers), P], unbiased estimates per prompt; `reward` is the reward that selects.
    """

    numbers: list[int]
    samples: int
    kl_bounds: list[float]
    kl_exact: list[float] | None
    metrics: dict[str, FloatArray]

    def mean(self, name: str, n: int) -> float:
        """Return the mean of a metric over the prompts that could be scored; NaN without any."""
        values = self.metrics[name][self.numbers.index(n)]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")


def check_best_of(mdp: TextMDP, n: int, samples: int | None) -> int:
    """Return the number of samples per prompt.

    Args:
        mdp: the environment with the reward that selects.
        n: largest n.
        samples: as asked for; None: 4 n.

    Raises:
        UserError: there are several environments, n is below 2, the samples are fewer than 4 n, or the reward depends
            on the other samples of a group.
    """
    single(mdp, "best of n")
    if n < 2:
        raise UserError(f"best of n: expected n of 2 or more, got {n}; use --best-of 16")
    least = SAMPLES_PER_N * n
    if samples is not None and samples < least:
        raise UserError(
            f"samples (--k): expected at least {SAMPLES_PER_N} · n = {least} for the best of {n}, got {samples}; use "
            f"--k {least}, or a smaller n"
        )
    if mdp.has_reward and "group" in getattr(mdp.reward, "scopes", {}).values():
        raise UserError(
            "best of n: expected rewards of single completions, got one of scope 'group', whose value depends on the "
            "other samples; use another --reward"
        )
    return least if samples is None else samples


def sample(
    policy: Policy,
    mdp: TextMDP,
    tasks: Sequence[Task],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    sampler: str = "decode",
) -> Evaluation:
    """Return an evaluation with many samples per prompt, drawn in parts that bound the memory use.

    Args:
        policy, mdp, tasks, sampling, seed, sampler: as for `rlalign.evaluation.evaluate.evaluate`.
        samples: completions per task.
    """
    parts = []
    for part, start in enumerate(range(0, samples, _SAMPLES_AT_ONCE)):
        count = min(_SAMPLES_AT_ONCE, samples - start)
        part_seed = seed + part * _SEED_STRIDE
        parts.append(evaluate(policy, mdp, tasks, samples=count, sampling=sampling, seed=part_seed, sampler=sampler))
    first = parts[0]
    if len(parts) == 1:
        return first
    metrics = {name: np.concatenate([part.metrics[name] for part in parts], axis=1) for name in first.metrics}
    completions = [list(chain.from_iterable(part.completions[i] for part in parts)) for i in range(len(tasks))]
    messages = [list(chain.from_iterable(part.messages[i] for part in parts)) for i in range(len(tasks))]
    return replace(first, metrics=metrics, completions=completions, messages=messages)


def best_of_n_curve(
    evaluation: Evaluation, n: int, *, policy: Policy, mdp: TextMDP, tasks: Sequence[Task], sampling: Sampling
) -> BestOfNCurve:
    """Return best-of-1, 2, 4, ... and n of the samples of an evaluation.

    Args:
        evaluation: samples of the policy; its `reward` selects.
        n: largest n.
        policy, mdp, tasks, sampling: of the evaluation, for the exact KL where it can be computed.
    """
    numbers = powers_up_to(n)
    rewards = evaluation.metrics["reward"]
    metrics = {
        name: np.stack([best_of_n(rewards, values, k) for k in numbers])
        for name, values in evaluation.metrics.items()
        if name not in NOT_KEPT
    }
    return BestOfNCurve(
        numbers=numbers,
        samples=rewards.shape[1],
        kl_bounds=[kl_upper_bound(k) for k in numbers],
        kl_exact=exact_kl_of(policy, mdp, tasks, numbers, sampling),
        metrics=metrics,
    )


def kept_completions(evaluation: Evaluation, n: int) -> Evaluation:
    """Return the evaluation of best-of-n: estimates [P, 1], and the completion that the first n samples would keep.

    Args:
        evaluation: samples of the policy; its `reward` selects.
        n: number of completions among which one is kept.
    """
    rewards = evaluation.metrics["reward"]
    metrics = {
        name: best_of_n(rewards, values, n)[:, None]
        for name, values in evaluation.metrics.items()
        if name not in NOT_KEPT
    }
    # a failed reward is never the best; argmax returns the first of equal ones, as a program that keeps one would
    best = np.where(np.isfinite(rewards[:, :n]), rewards[:, :n], -np.inf).argmax(1)
    completions = [[texts[i]] for texts, i in zip(evaluation.completions, best, strict=True)]
    messages = [[rows[i]] for rows, i in zip(evaluation.messages, best, strict=True)]
    return replace(evaluation, metrics=metrics, completions=completions, messages=messages, report=Report())


def plain_evaluation(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation [P, 1] of one draw of the policy: the means over the samples of each prompt."""
    metrics = {name: prompt_means(values)[:, None] for name, values in evaluation.metrics.items()}
    completions = [texts[:1] for texts in evaluation.completions]
    messages = [rows[:1] for rows in evaluation.messages]
    return replace(evaluation, metrics=metrics, completions=completions, messages=messages)
