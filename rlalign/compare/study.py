"""What a study asks: algorithms × environments × seeds, everything else equal. From a command line or a TOML file.

    algorithms = ["rloo", "grpo", "grpo-unscaled", "trl:grpo"]
    envs = ["reverse", "sentiment"]
    policy = "gru"
    seeds = 10                          # or a list of them
    steps = 200
    output = "runs/study"

    [settings]                          # of every run
    "learner.lr" = 1e-3

    [algorithm.grpo-unscaled]           # of one algorithm; preset: what it is a variant of
    preset = "grpo"
    "objective.scale" = "none"

    [env.sentiment]                     # of one environment
    "rollout.max_new" = 12

    [tune]                              # the same search for each algorithm, before they are compared
    trials = 20
    search = { lr = "log:1e-4:1e-2" }

A cell is one algorithm on one environment at one seed: an ordinary run folder, OUTPUT/cells/ENV/ALGORITHM/seed-N.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlalign.config.defaults import default_config
from rlalign.config.overrides import apply, read_toml
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_dict
from rlalign.config.validate import resolve, validate
from rlalign.envs.registration import env_id
from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_fields, checked, flatten

TUNING_SEED = 1_000_000
"""Seeds of searches begin here; those of comparisons end below."""

_ELSEWHERE = {
    "seed": "--seeds",
    "env": "--envs",
    "algorithm": "--algorithms",
    "output": "--output",
    "policy": "--policy",
    "steps": "--steps",
    "resume": "the same command again",
}
_NAMES = ("seed", "env", "algorithm", "output", "resume")
_CURVE_POINTS = 20
_SAVE_EVERY = 100  # steps that a kill can cost a cell at most
_PROMPTS = 64  # held out


@dataclass(frozen=True)
class Search:
    """A search for settings, the same for every algorithm."""

    trials: int = 0
    search: Mapping[str, str] = field(default_factory=dict)
    """Setting -> `log:1e-4:1e-2`, `uniform:0:1`, `int:1:8` or `choice:4,8,16`; empty: the learning rate, within a
    factor of ten of its default."""


@dataclass(frozen=True)
class Study:
    """A question in full. Labels of algorithms are presets unless `algorithm` says of what they are variants."""

    algorithms: tuple[str, ...]
    envs: tuple[str, ...]
    policy: str = "gru"
    seeds: tuple[int, ...] = tuple(range(5))
    steps: int | None = None
    """Of every run; None: what suits the policy."""
    output: str = "runs/compare"
    settings: Mapping[str, Any] = field(default_factory=dict)
    algorithm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    env: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tune: Search = field(default_factory=Search)
    threshold: float | None = None
    """Reward that counts as reached; None: half the way from the start to the best algorithm's mean."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: labels of its environment and algorithm, its seed, its whole configuration."""

    env: str
    algorithm: str
    seed: int
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(str(self.config.output))

    @property
    def name(self) -> str:
        """ENV/ALGORITHM/seed-N."""
        return f"{self.env}/{label(self.algorithm)}/seed-{self.seed}"


def cells(study: Study, tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> list[Cell]:
    """All cells, seeds outermost, so that a study stopped early has whole pairs.

    Args:
        study: the question.
        tuned: (environment's label, algorithm) -> settings that a search found.

    Raises:
        UserError: for whatever is impossible in any of the cells, before one of them runs.
    """
    return [
        Cell(label(env), name, seed, cell_config(study, env, name, seed, (tuned or {}).get((label(env), name), {})))
        for seed in study.seeds
        for env in study.envs
        for name in study.algorithms
    ]


def cell_config(
    study: Study, env: str, algorithm: str, seed: int, tuned: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of one cell, validated; what is more particular wins."""
    own = dict(study.algorithm.get(algorithm, {}))
    preset = str(own.pop("preset", algorithm))
    config = default_config(env=env, policy=study.policy, algorithm=preset)
    config = replace(config, steps=config.steps if study.steps is None else study.steps, save_every=_SAVE_EVERY)
    config = replace(
        config,
        evaluation=replace(
            config.evaluation, split="test", prompts=_PROMPTS, every=max(1, config.steps // _CURVE_POINTS)
        ),
    )
    output = Path(study.output) / "cells" / label(env) / label(algorithm) / f"seed-{seed}"
    try:
        for changes in (study.settings, study.env.get(env, {}), own, tuned or {}):
            config = apply(config, changes)
        config = resolve(replace(config, seed=seed, output=str(output)))
        validate(config)
    except UserError as error:
        raise UserError(f"{algorithm} on {label(env)}: {error}") from error
    return config


def label(name: str) -> str:
    """How an environment or algorithm is called in folders: `rlalign/GuessNumber-v0` -> `guess_number`."""
    plain = re.sub(r"-v0(?=$|\?)", "", name.removeprefix("rlalign/"))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.").lower()


def check(study: Study) -> Study:
    """The study, its environments by their full ids. Raises UserError naming the fix where it cannot be answered."""
    check_fields(study)
    of_env = {env_id(name): settings for name, settings in study.env.items()}
    study = replace(study, envs=tuple(env_id(name) for name in study.envs), env=of_env)
    for what, names in (("algorithm", study.algorithms), ("environment", study.envs)):
        if not names:
            raise UserError(
                f"the study names no {what}: --{'algorithms rloo,grpo' if what == 'algorithm' else 'envs reverse'}"
            )
        labels = [label(n) for n in names]
        twice = next((n for n in labels if labels.count(n) > 1), None)
        if twice:
            raise UserError(f"{what} '{twice}' is named twice")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds are {list(study.seeds)}: give different ones, or how many")
    if not all(0 <= s < TUNING_SEED for s in study.seeds):
        raise UserError(f"seeds must lie in [0, {TUNING_SEED}): those above are kept for tuning")
    for table, known in (("algorithm", study.algorithms), ("env", study.envs)):
        for name in getattr(study, table):
            if name not in known:
                raise UserError(f"[{table}.{name}] names none of the study's.{did_you_mean(name, known)}")
    for key in study.settings:
        if key in _ELSEWHERE:
            raise UserError(f"'{key}' is not a setting of all cells alike: use {_ELSEWHERE[key]}")
    for own in (*study.algorithm.values(), *study.env.values(), study.tune.search):
        for key in own:
            if key in _NAMES:
                raise UserError(f"'{key}' says which cell a run is, and is no setting of some: use {_ELSEWHERE[key]}")
    if study.tune.trials < 0:
        raise UserError(f"tune is {study.tune.trials} trials: it must be at least 0")
    if study.tune.search and not study.tune.trials:
        raise UserError("the search says where to look and not how often: give --tune N, or trials under [tune]")
    return study


def read_study(path: Path) -> Study:
    """The study of a TOML file. Raises UserError for a file that is none."""
    data = read_toml(path)
    try:
        return check(from_mapping(data))
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error


def from_mapping(data: Mapping[str, Any]) -> Study:
    """A study of plain values, as a TOML file holds them. Raises UserError for unknown keys and values of other types.

    In tables of settings `{learner: {lr: 1}}` and `{"learner.lr": 1}` mean the same.
    """
    seeds = {"seeds": as_seeds(data["seeds"])} if "seeds" in data else {}
    study = from_dict(Study, {"algorithms": (), "envs": (), **data, **seeds})
    algorithm, env = ({name: flatten(own) for name, own in t.items()} for t in (study.algorithm, study.env))
    return replace(study, settings=flatten(study.settings), algorithm=algorithm, env=env)


def as_seeds(given: Any) -> tuple[int, ...]:
    """`5` -> 0, 1, 2, 3, 4; a list stays what it is."""
    if isinstance(given, list | tuple):
        seeds: tuple[int, ...] = checked(tuple[int, ...], given, "seeds")
        return seeds
    if type(given) is not int or not 1 <= given <= TUNING_SEED:
        raise UserError(f"seeds is {given!r}: give how many, 1 or more, or a list of which")
    return tuple(range(given))
