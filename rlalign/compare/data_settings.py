"""Recorded data and a teacher in a study: which algorithms read them, and data as what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.overrides import full_key
from rlalign.config.schema import TrainConfig
from rlalign.recorded.columns import kind_of
from rlalign.recorded.items import columns_of


def settings_for(preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a study, or of one of its environments, that reach an algorithm.

    `data` and the settings of `recorded` reach the algorithms that learn from recorded data. The others sample, also
    policy gradients, which alone would read the logged rewards of `data`: a study that means these names the data in
    the settings of the algorithm. `recorded.kind` reaches the algorithms that learn from this kind, and `teacher` those
    that learn from a teacher. `rollout.group_size` is of samples: rows have the size that the algorithm reads, and with
    `rollout.prompts` a step reads as many completions as others sample.

    Args:
        preset: name of the algorithm.
        settings: setting -> value, without those of the algorithm itself.
    """
    algorithm = find_algorithm(preset)
    wanted = algorithm.data
    reaching = {}
    for key, value in settings.items():
        name = full_key(key)
        of_data = name == "data" or name.startswith("recorded.")
        other_kind = name == "recorded.kind" and value not in ("auto", wanted)
        of_teacher = name == "teacher" or name.startswith("distill.")
        if not (of_data and (not wanted or other_kind)) and not (of_teacher and not algorithm.teacher):
            reaching[key] = value
    return _in_rows(reaching, algorithm.group_size) if wanted else reaching


def _in_rows(settings: Mapping[str, Any], group_size: int) -> dict[str, Any]:
    """Return settings with prompts × samples per prompt in place of these, as rows or pairs of an algorithm."""
    names = {full_key(key): key for key in settings}
    size, prompts = names.get("rollout.group_size"), names.get("rollout.prompts")
    rest = {key: value for key, value in settings.items() if key != size}
    if size is not None and prompts is not None:
        rest[prompts] = max(1, int(settings[prompts]) * int(settings[size]) // group_size)
    return rest


def with_kind(config: TrainConfig) -> TrainConfig:
    """Return the configuration of a cell that imitates the chosen completions if its data is pairs.

    One file then serves sft, dpo and kto, which reads a pair as two labels. `rlalign train` asks for `--as`.
    """
    imitates = find_algorithm(config.algorithm).data == "demonstrations"
    if not (imitates and config.data and config.recorded.kind == "auto"):
        return config
    if kind_of(columns_of(config.data)) != "pairs":
        return config
    return replace(config, recorded=replace(config.recorded, kind="demonstrations"))
