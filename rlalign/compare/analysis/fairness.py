"""What the competitors have in common and where they differ, from their configurations and their starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import EnvResult, SettingDifference
from rlalign.compare.study import Cell
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.config.unused_settings import unread
from rlalign.errors import UserError
from rlalign.typecheck import flatten

_CLEARLY = 1.05
# What does not decide a result, what names the cell, and what follows from the objective.
_ASIDE = {
    *("seed", "output", "resume", "allow_change", "save_every", "keep", "device", "env", "algorithm", "model.value"),
    *("tracking.wandb", "tracking.project", "tracking.tensorboard"),
}


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Dotted settings that decide a result, its cell's names aside."""
    return {k: v for k, v in flatten(to_dict(config)).items() if k not in _ASIDE}


def differences(cells: Sequence[Cell]) -> list[SettingDifference]:
    """Settings that are not the same for all algorithms, the objective's axes first; `-` where nothing reads them."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        settings = settings_of(cell.config) | dict.fromkeys(unread(cell.config), "-")
        first.setdefault((cell.env, cell.algorithm), settings)
    envs = list(dict.fromkeys(env for env, _ in first))
    algorithms = list(dict.fromkeys(name for _, name in first))
    keys = dict.fromkeys(k for settings in first.values() for k in settings)
    found = []
    for key in keys:
        table = {a: [first[e, a].get(key) for e in envs if (e, a) in first] for a in algorithms}
        if all(values == next(iter(table.values())) for values in table.values()):
            continue
        found.append(
            SettingDifference(key, key.startswith("objective."), {a: _text(envs, v) for a, v in table.items()})
        )
    return sorted(found, key=lambda d: not d.axis)


def _text(envs: Sequence[str], values: Sequence[Any]) -> str:
    if all(v == values[0] for v in values):
        return str(values[0])
    return ", ".join(f"{env}: {value}" for env, value in zip(envs, values, strict=False))


def budget(config: TrainConfig) -> dict[str, Any]:
    """What must be equal for runs of one environment to be comparable."""
    return {
        "policy": config.policy,
        "steps": config.steps,
        "samples per step": config.samples_per_step,
        "rewards": config.rewards,
        "rollout.max_new": config.rollout.max_new,
        "rollout.temperature": config.rollout.temperature,
        "evaluation.split": config.evaluation.split,
        "evaluation.prompts": config.evaluation.prompts,
        "evaluation.samples": config.evaluation.samples,
    }


def check_budgets(cells: Sequence[Cell]) -> None:
    """Refuse unequal budgets within an environment. Raises UserError naming two cells and what differs."""
    first: dict[str, Cell] = {}
    for cell in cells:
        one = first.setdefault(cell.env, cell)
        a, b = budget(one.config), budget(cell.config)
        key = next((k for k in a if a[k] != b[k]), None)
        if key:
            raise UserError(
                f"{cell.algorithm} on {cell.env} has {key} {b[key]!r} where {one.algorithm} has {a[key]!r}: "
                "competitors get the same; insist with --allow-unequal"
            )


def check_prompts(records: Sequence[Record]) -> None:
    """Refuse cells of one environment that were measured on different held-out prompts. Raises UserError naming two.

    Cells finished at different times may be: the environment's file or data can have changed in between.
    """
    done = [r for r in records if r.failure is None]
    for r in done:
        if r.prompts != done[0].prompts:
            raise UserError(
                f"'{r.cell.folder}' was measured on other held-out prompts than '{done[0].cell.folder}': the "
                "environment has changed in between. Remove the older of the two, and the same command runs it again"
            )


def unequal_draws(environments: Mapping[str, EnvResult]) -> list[str]:
    """A sentence for each environment on which algorithms drew clearly different numbers of samples in their steps.

    A budget is steps × samples a step; samples thrown away (dynamic sampling) and greedy baselines come on top.
    """
    found = []
    for env, result in environments.items():
        drawn = {
            name: sum(ends) / len(ends)
            for name, r in result.algorithms.items()
            if (ends := [c.samples[-1] for c, failed in zip(r.curves, r.failed, strict=True) if not failed])
        }
        most, least = max(drawn, key=drawn.__getitem__), min(drawn, key=drawn.__getitem__)
        if drawn[most] > _CLEARLY * drawn[least] > 0:
            found.append(
                f"On {env}, {most} drew {drawn[most] / drawn[least]:.2f} times the samples that {least} drew in as "
                "many steps: read the curves against samples too."
            )
    return found


def unequal_starts(grids: Mapping[str, Mapping[str, Mapping[int, Record]]]) -> list[str]:
    """A sentence for each environment and seed at which algorithms began with different held-out rewards."""
    found = []
    for env, grid in grids.items():
        for seed in next(iter(grid.values())):
            starts = [row[seed].before["reward"] for row in grid.values() if row[seed].before]
            if any(s.shape != starts[0].shape or not np.allclose(s, starts[0], equal_nan=True) for s in starts):
                found.append(f"On {env} at seed {seed} the algorithms did not begin with the same policy.")
    return found
