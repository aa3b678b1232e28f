"""Studies as TOML files and plain values. A file with every table:

algorithms = ["rloo", "grpo", "grpo-unscaled", "trl:grpo"]
envs = ["reverse", "sentiment"]
policy = "gru"
warm_start = "sft"                  # algorithm that trains the initial policies, with its data below; leave it out
seeds = 10                          # a count, or a list of seeds
steps = 200
output = "runs/study"

[settings]                          # settings of every run
"learner.lr" = 1e-3

[algorithm.sft]
data = "chat.jsonl"

[algorithm.grpo-unscaled]           # settings of one algorithm; preset: the preset that it is a variant of
preset = "grpo"
"objective.scale" = "none"

[env.sentiment]                     # settings of one environment
"rollout.max_new" = 12

[tune]                              # the same search for each algorithm, before the comparison
trials = 20
search = { lr = "log:1e-4:1e-2" }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.compare.study import TUNING_SEED, Study, check_study
from rlalign.config.overrides import read_toml
from rlalign.config.serialize import from_dict
from rlalign.errors import UserError
from rlalign.typecheck import checked, flatten


def read_study(path: Path) -> Study:
    """Return the study of a TOML file, checked.

    The keys are the fields of `Study`; `seeds` may also be a count. Missing keys have the default of their field::

        algorithms = ["rloo", "grpo", "grpo-unscaled"]
        envs = ["reverse"]
        seeds = 10                          # a count, or a list of seeds

        [settings]                          # settings of every run
        "learner.lr" = 1e-3

        [algorithm.grpo-unscaled]           # settings of one algorithm
        preset = "grpo"
        "objective.scale" = "none"

    Args:
        path: the file.

    Returns:
        The study, with full environment ids.

    Raises:
        UserError: names the file, which cannot be read or does not describe a valid study.
    """
    data = read_toml(path)
    try:
        return check_study(study_from_mapping(data))
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error


def study_from_mapping(data: Mapping[str, Any]) -> Study:
    """Return a study of plain values, as a TOML file holds them.

    In tables of settings `{learner: {lr: 1}}` and `{"learner.lr": 1}` are equivalent.

    Raises:
        UserError: a key is unknown or a value has the wrong type.
    """
    seeds = {"seeds": parse_seeds(data["seeds"])} if "seeds" in data else {}
    study = from_dict(Study, {"algorithms": (), "envs": (), **data, **seeds})
    return replace(
        study,
        settings=flatten(study.settings),
        algorithm={name: flatten(settings) for name, settings in study.algorithm.items()},
        env={name: flatten(settings) for name, settings in study.env.items()},
    )


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds that a count or a list describes: `3` -> (0, 1, 2), `[7, 8]` -> (7, 8)."""
    if isinstance(value, list | tuple):
        seeds: tuple[int, ...] = checked(tuple[int, ...], value, "seeds")
        return seeds
    if type(value) is not int or not 1 <= value <= TUNING_SEED:  # bool is an int, too
        raise UserError(f"seeds: expected a count of at least 1 or a list of seeds, got {value!r}")
    return tuple(range(value))
