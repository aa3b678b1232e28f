"""Warnings about steps from which nothing can be learned, because samples that are compared have equal rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.log.history import History, Row
from rlalign.objective.registries import GROUP_BASELINES

STEPS = 10  # fewer steps may miss a rare reward by chance
_EQUAL = 1e-9  # a mean of equal numbers may differ from them in the last digit


def equal_rewards(rows: Sequence[Row], largest: float | None) -> str:
    """Return a warning if all samples of the first ten steps have the same reward, else an empty text.

    Args:
        rows: metrics of the steps from the first on, as in metrics.jsonl.
        largest: the largest reward, which solves the task and needs no warning; None: unknown.

    Example:
        >>> row = {"reward/mean": 0.0, "reward/std": 0.0, "rollout/truncated": 1.0}
        >>> equal_rewards([row] * 10, largest=1.0).partition(",")[0]
        'every sample of the first 10 steps has the reward 0'
        >>> equal_rewards([{**row, "reward/mean": 1.0}] * 10, largest=1.0)
        ''
    """
    if len(rows) < STEPS:
        return ""
    history = History(rows[:STEPS])
    means = history.column("reward/mean")
    reward = float(means[0])
    # comparisons with NaN, of a step without a valid reward, are false
    if not (np.all(abs(means - reward) < _EQUAL) and np.all(history.column("reward/std") < _EQUAL)):
        return ""
    if largest is not None and reward >= largest - _EQUAL:
        return ""
    cut = rows[STEPS - 1].get("rollout/truncated") or 0.0
    return (
        f"every sample of the first {STEPS} steps has the reward {reward:g}, so there is nothing to learn from. Likely "
        f"causes: the limit of tokens (max_new) cuts the completions ({cut:.0%} were cut), the tokenizer has many more "
        "ids than the answers need, or the reward expects another format; read samples.jsonl"
    )


def first_equal_step(rows: Sequence[Row], largest: float | None, hints: Sequence[str] = (), *, groups: bool) -> str:
    """Return a warning at the first step whose samples, or whose groups, all have equal rewards, else an empty text.

    Args:
        rows: metrics of the steps so far, as in metrics.jsonl; the last one is of the present step.
        largest: the largest reward, which solves the task and needs no warning; None: unknown.
        hints: likely causes to name first.
        groups: the baseline compares the samples of a group, so that equal groups have no advantage.

    Example:
        >>> row = {"step": 1, "reward/mean": 0.0, "reward/std": 0.0, "rollout/truncated": 0.25}
        >>> first_equal_step([row], None, groups=True).partition(",")[0]
        'step 1: every sample has the reward 0'
        >>> first_equal_step([row, row], None, groups=True)
        ''
    """
    row = rows[-1]
    kind = _equal_in(row, largest, groups)
    if not kind or _risen(rows, row) or any(_equal_in(r, largest, groups) and not _risen(rows, r) for r in rows[:-1]):
        return ""
    causes = list(hints)
    if kind == "samples":
        found = f"every sample has the reward {row['reward/mean']:g}, so no completion is better than another"
        causes.append(f"completions that the limit of tokens cuts ({row.get('rollout/truncated') or 0.0:.0%} were cut)")
        causes.append("a reward that expects another format")
    else:
        found = "the samples of each group have equal rewards, so the group's baseline leaves no advantage"
        causes += ["a policy that samples the same completion again", "a reward that depends on the prompt alone"]
    return (
        f"step {row.get('step') or len(rows)}: {found}, and nothing can be learned from such a step; look at "
        f"samples.jsonl and at rlalign check REWARD --env ENV for {', '.join(causes[:-1])} or {causes[-1]}"
    )


def _risen(rows: Sequence[Row], row: Row) -> bool:
    """Return whether the mean reward of a step is above that of the first one: the policy has learned from others."""
    means = (r.get("reward/mean") for r in rows)
    first = next((mean for mean in means if mean is not None and np.isfinite(mean)), None)
    return first is not None and (row.get("reward/mean") or 0.0) > first + _EQUAL


def _equal_in(row: Row, largest: float | None, groups: bool) -> str:
    """Return what has equal rewards in a step, "samples" or "groups"; empty if they differ or solve the task."""
    mean = row.get("reward/mean")
    std = row.get("reward/std")
    if mean is None or std is None or not np.isfinite(mean) or (largest is not None and mean >= largest - _EQUAL):
        return ""
    if std < _EQUAL:
        return "samples"
    return "groups" if groups and row.get("rollout/zero_variance") == 1.0 else ""


def warning_of(step: int, rows: Sequence[Row], mdp: TextMDP, baseline: str) -> str:
    """Return the warning that is due at a step, else an empty text.

    Args:
        step: the step, from 1.
        rows: metrics of the steps so far.
        mdp: the environment.
        baseline: of the objective.
    """
    largest = largest_reward(mdp)
    groups = baseline in GROUP_BASELINES
    hints = message_hints(mdp) if _equal_in(rows[-1], largest, groups) else []  # reads a task
    first = first_equal_step(rows, largest, hints, groups=groups)
    return first or (equal_rewards(rows, largest) if step == STEPS else "")


def message_hints(mdp: TextMDP) -> list[str]:
    """Return a likely cause if the user's rewards receive lists of messages, else nothing."""
    names = getattr(mdp.reward, "message_readers", [])  # a user's own Reward may lack it
    if not names or isinstance(mdp.source.get("train", 0).prompt, str):
        return []
    return [
        f"'{names[0]}' reading texts (the prompts are conversations, so it gets each completion as a list of messages, "
        "unless it has @rlalign.reward(texts=True))"
    ]


def largest_reward(mdp: TextMDP) -> float | None:
    """Return the largest reward of an episode, from `gold_score` or the ranges of the rewards; None: unknown."""
    known = [mdp.gold_score, getattr(mdp.reward, "largest", None)]
    return min((value for value in known if value is not None), default=None)
