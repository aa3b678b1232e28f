"""The environments of a mixture on a card: the reward of each, and stages that the training did not reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlalign.config.schema import OBJECT
from rlalign.envs.mixture.spec import MixtureSpec
from rlalign.escaping.markdown import code


def by_environment(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return environment of a mixture -> the entry of its reward, before and after; {} for one environment.

    Args:
        evaluation: content of report/evaluation.json.
    """
    parts = evaluation.get("environments") or {}
    return {name: part["metrics"]["reward"] for name, part in parts.items() if "reward" in part.get("metrics", {})}


def not_reached(env: str, steps: int) -> str:
    """Return a sentence about environments of which the training drew no prompt; empty if there are none.

    The sentence is empty if no step was done, as for an algorithm that trains nothing.

    Args:
        env: as in `TrainConfig.env`.
        steps: done.

    Example:
        >>> not_reached("sort@0,reverse@20", 10), not_reached("sort@0,reverse@20", 30)
        (' Not trained on, because no prompt was drawn from it: `reverse`.', '')
    """
    mixture = None if env.startswith(OBJECT) or not steps else MixtureSpec.parse(env)
    never = mixture.never_drawn(steps) if mixture else []
    if not never:
        return ""
    return f" Not trained on, because no prompt was drawn from it: {', '.join(map(code, never))}."
