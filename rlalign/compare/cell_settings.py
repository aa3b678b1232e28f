"""Settings of cells: the ones that affect a result, and the ones that must be equal within an environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.compare.study import Cell
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.errors import UserError
from rlalign.typecheck import flatten

# Settings that do not affect a result, that name the cell, or that follow from the objective.
_NOT_COMPARED = {
    *("seed", "output", "resume", "allow_change", "save_every", "keep", "device", "env", "algorithm", "model.value"),
}


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that affect a result, by dotted name; the names of the cell are left out."""
    settings = {key: value for key, value in flatten(to_dict(config)).items() if not _is_free(key)}
    return {**settings, "policy": _policy_of(config)}


def _is_free(key: str) -> bool:
    return key in _NOT_COMPARED or key.startswith("tracking.")


def equal_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that must be equal for runs of one environment to be comparable."""
    return {
        "policy": _policy_of(config),
        "steps": config.steps,
        "samples per step": config.samples_per_step,
        "rewards": config.rewards,
        "rollout.max_new": config.rollout.max_new,
        "rollout.temperature": config.rollout.temperature,
        "evaluation.split": config.evaluation.split,
        "evaluation.prompts": config.evaluation.prompts,
        "evaluation.samples": config.evaluation.samples,
    }


def _policy_of(config: TrainConfig) -> str:
    """Return the initial policy; the folder of a warm start at the run's seed is one policy for all seeds."""
    return re.sub(rf"(?<=/)seed-{config.seed}(?=/policy$)", "seed-N", config.policy)


def check_equal_settings(cells: Sequence[Cell]) -> None:
    """Raise UserError if cells of one environment have different budgets or other settings that must be equal.

    Raises:
        UserError: names the two algorithms, the setting and both values.
    """
    first_of: dict[str, Cell] = {}
    for cell in cells:
        first = first_of.setdefault(cell.env, cell)
        expected = equal_settings(first.config)
        actual = equal_settings(cell.config)
        key = first_difference(expected, actual)
        if key:
            raise UserError(
                f"{cell.algorithm} on {cell.env}: expected {key} {expected[key]!r} as for {first.algorithm}, "
                f"got {actual[key]!r}; use equal settings, or --allow-unequal"
            )


def first_difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str | None:
    """Return the first key whose values differ; None if all are equal."""
    return next((key for key in expected if expected[key] != actual[key]), None)
