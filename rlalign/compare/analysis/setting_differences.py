"""Settings that differ between the algorithms of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.compare.cell_settings import settings_of
from rlalign.compare.results.schema import SettingDifference
from rlalign.compare.study import Cell
from rlalign.config.unused_settings import unread


def setting_differences(cells: Sequence[Cell]) -> list[SettingDifference]:
    """Return the settings that differ between algorithms, the objective's axes first.

    A setting that nothing reads in a cell has the value `-`.
    """
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        unused = dict.fromkeys(unread(cell.config), "-")
        settings.setdefault((cell.env, cell.algorithm), settings_of(cell.config) | unused)
    envs = list(dict.fromkeys(env for env, _ in settings))
    algorithms = list(dict.fromkeys(algorithm for _, algorithm in settings))
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    differences = []
    for key in keys:
        values_of = {a: [settings[env, a].get(key) for env in envs if (env, a) in settings] for a in algorithms}
        if all(values == values_of[algorithms[0]] for values in values_of.values()):
            continue
        texts = {algorithm: _text(envs, values) for algorithm, values in values_of.items()}
        differences.append(SettingDifference(key, key.startswith("objective."), texts))
    return sorted(differences, key=lambda difference: not difference.axis)  # stable: axes first, order kept


def _text(envs: Sequence[str], values: Sequence[Any]) -> str:
    if all(value == values[0] for value in values):
        return str(values[0])
    return ", ".join(f"{env}: {value}" for env, value in zip(envs, values, strict=False))
