"""A study: algorithms × environments × seeds with all other settings equal, and its cells.

A cell is one algorithm on one environment at one seed. It is an ordinary run in the folder
OUTPUT/cells/ENV/ALGORITHM/seed-N. `study_file` reads a study from a TOML file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlalign.algorithms import UNTRAINED
from rlalign.compare.data_settings import settings_for, with_kind
from rlalign.config.defaults import default_config
from rlalign.config.overrides import apply
from rlalign.config.schema import TrainConfig
from rlalign.config.validate import resolve, validate
from rlalign.envs.registration import env_id
from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_fields, check_range

TUNING_SEED = 1_000_000
"""Seed of all searches. Seeds of comparisons are smaller, so that no trial shares a seed with a cell."""

_CELL_KEYS = ("seed", "env", "algorithm", "output", "resume")  # these identify a cell
_FLAG_OF = {
    "seed": "--seeds",
    "env": "--envs",
    "algorithm": "--algorithms",
    "output": "--output",
    "policy": "--policy",
    "steps": "--steps",
    "resume": "the same command again",
}
_EVALUATIONS = 20  # points of a learning curve
_SAVE_EVERY = 100  # steps; a killed cell repeats at most this many
_HELD_OUT_PROMPTS = 64


@dataclass(frozen=True)
class TuneSettings:
    """A search for settings. It is the same for every algorithm.

    Attributes:
        trials: number of trials per algorithm and environment; 0 disables the search.
        search: setting -> space: `log:1e-4:1e-2` (log-uniform), `uniform:0:1`, `int:1:8` (both ends included) or
            `choice:4,8,16`. An empty mapping searches the learning rate within a factor of ten of its default.
    """

    trials: int = 0
    search: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The full description of a study: algorithms × environments × seeds with all other settings equal.

    Settings are dotted names of `TrainConfig` and their values, `{"learner.lr": 1e-3}`. Specific settings override
    general ones, in this order: `settings`, `env`, `algorithm`, those that `tune` selects. `data` in `settings` or
    `env` reaches the algorithms that learn from recorded data, and the others sample (see `data_settings`).

    Attributes:
        algorithms: labels; each is a preset unless `algorithm` names the preset that it is a variant of.
        envs: environment ids, or their short names.
        policy: initial policy of every run: a name, a model folder or a run.
        seeds: seeds of every algorithm on every environment; at least 0 and below 1,000,000.
        steps: steps of every run; None: the default of the policy.
        output: folder of the study; the run folders are `cells/ENV/ALGORITHM/seed-N` in it.
        settings: settings of every run.
        algorithm: label -> settings of one algorithm; the key `preset` names the preset.
        env: environment -> settings of one environment.
        tune: the search that precedes the comparison.
        threshold: reward that counts as reached; None: halfway from the initial policy's mean to the best algorithm's.
        warm_start: algorithm whose runs, one per environment and seed, train the initial policies of all other runs,
            from `policy`; it may have settings in `algorithm`. Empty: none.

    Example:
        >>> study = Study(
        ...     ("grpo", "grpo-unscaled"),
        ...     ("reverse",),
        ...     steps=200,
        ...     algorithm={"grpo-unscaled": {"preset": "grpo", "objective.scale": "none"}},
        ... )
        >>> len(build_cells(study))  # 2 algorithms, 5 seeds
        10
    """

    algorithms: tuple[str, ...]
    envs: tuple[str, ...]
    policy: str = "gru"
    seeds: tuple[int, ...] = tuple(range(5))
    steps: int | None = None
    output: str = "runs/compare"
    settings: Mapping[str, Any] = field(default_factory=dict)
    algorithm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    env: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tune: TuneSettings = field(default_factory=TuneSettings)
    threshold: float | None = None
    warm_start: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        env, algorithm: labels.
        seed: seed of the run.
        config: its complete configuration.
    """

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


def build_cells(study: Study, tuned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> list[Cell]:
    """Return all cells of a study.

    Seeds are the outermost loop, so that a study that is stopped early has complete pairs.

    Args:
        study: the question.
        tuned: (label of the environment, algorithm) -> settings that a search selected.

    Raises:
        UserError: a cell has an impossible configuration. No cell has run by then.
    """
    tuned = tuned or {}
    cells = []
    for seed in study.seeds:
        for env in study.envs:
            for algorithm in study.algorithms:
                settings = tuned.get((label(env), algorithm), {})
                cells.append(Cell(label(env), algorithm, seed, cell_config(study, env, algorithm, seed, settings)))
    return cells


def cell_config(
    study: Study, env: str, algorithm: str, seed: int, tuned: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Return the validated configuration of one cell.

    Specific settings override general ones, in this order: of the study, of the environment, of the algorithm, tuned.

    Raises:
        UserError: names the algorithm and the environment of an impossible configuration.
    """
    own = dict(study.algorithm.get(algorithm, {}))
    preset = str(own.pop("preset", algorithm))
    config = default_config(env=env, policy=initial_policy(study, env, seed), algorithm=preset)
    config = replace(config, steps=config.steps if study.steps is None else study.steps, save_every=_SAVE_EVERY)
    interval = max(1, config.steps // _EVALUATIONS)
    config = replace(
        config, evaluation=replace(config.evaluation, split="test", prompts=_HELD_OUT_PROMPTS, every=interval)
    )
    output = Path(study.output) / "cells" / label(env) / label(algorithm) / f"seed-{seed}"
    try:
        general = (settings_for(preset, settings) for settings in (study.settings, study.env.get(env, {})))
        for changes in (*general, own, tuned or {}):
            config = apply(config, changes)
        config = with_kind(config)
        config = resolve(replace(config, seed=seed, output=str(output)))
        validate(config)
    except UserError as error:
        raise UserError(f"{algorithm} on {label(env)}: {error}") from error
    return config


def initial_policy(study: Study, env: str, seed: int) -> str:
    """Return the initial policy of the cells of an environment and seed: that of the study, or of its warm start."""
    if not study.warm_start:
        return study.policy
    folder = Path(study.output) / "warm_start" / label(env) / label(study.warm_start) / f"seed-{seed}"
    return str(folder / "policy")


def trained_algorithms(study: Study) -> list[str]:
    """Return the labels of the algorithms that train, whose settings a search can select."""
    return [name for name in study.algorithms if study.algorithm.get(name, {}).get("preset", name) not in UNTRAINED]


def label(name: str) -> str:
    """Return the folder name of an environment or algorithm: `rlalign/GuessNumber-v0` -> `guess_number`."""
    plain = re.sub(r"-v0(?=$|\?)", "", name.removeprefix("rlalign/"))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.").lower()


def check_study(study: Study) -> Study:
    """Return the study with full environment ids.

    Raises:
        UserError: the study has no valid grid of cells; the message names the fix.
    """
    check_fields(study)
    env_settings = {env_id(name): settings for name, settings in study.env.items()}
    study = replace(study, envs=tuple(env_id(name) for name in study.envs), env=env_settings)
    _check_names("algorithm", study.algorithms, "--algorithms rloo,grpo")
    _check_names("environment", study.envs, "--envs reverse")
    _check_seeds(study.seeds)
    _check_tables(study)
    check_range("tune.trials", study.tune.trials, least=0)
    if study.tune.search and not study.tune.trials:
        raise UserError(
            "tune.trials: expected a number of trials for the search, got 0; use --tune N, or trials under [tune]"
        )
    return study


def _check_names(kind: str, names: tuple[str, ...], example: str) -> None:
    if not names:
        raise UserError(f"expected at least one {kind}, got none; use {example}")
    labels = [label(name) for name in names]
    repeated = next((name for name in labels if labels.count(name) > 1), None)
    if repeated:
        raise UserError(f"expected each {kind} once, got '{repeated}' twice; remove one")


def _check_seeds(seeds: tuple[int, ...]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: expected different seeds, got {list(seeds)}; use a count or a list without repetition")
    if not all(0 <= seed < TUNING_SEED for seed in seeds):
        raise UserError(
            f"seeds: expected values in [0, {TUNING_SEED}), got {list(seeds)}; larger seeds are reserved for tuning"
        )


def _check_tables(study: Study) -> None:
    """Raise UserError for a table of settings whose name or keys do not fit the study."""
    algorithms = (*study.algorithms, *([study.warm_start] if study.warm_start else []))
    for table, names in (("algorithm", algorithms), ("env", study.envs)):
        for name in getattr(study, table):
            if name not in names:
                raise UserError(
                    f"[{table}.{name}]: expected a name of the study, got '{name}'.{did_you_mean(name, names)}"
                )
    for key in study.settings:
        if key in _FLAG_OF:
            raise UserError(f"settings: expected a setting of all cells, got '{key}'; use {_FLAG_OF[key]}")
    for table_settings in (*study.algorithm.values(), *study.env.values(), study.tune.search):
        for key in table_settings:
            if key in _CELL_KEYS:
                raise UserError(f"expected a setting, got '{key}', which identifies a cell; use {_FLAG_OF[key]}")
