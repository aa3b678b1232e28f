"""Configurations of the trials of a search, and the spaces that it searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.compare.study import TUNING_SEED, Study, cell_config
from rlalign.compare.tuning.spaces import default_search
from rlalign.config.schema import TrainConfig

Configure = Callable[[int, Mapping[str, Any]], TrainConfig]
"""(number of a trial, settings) -> its configuration."""


def spaces_of(study: Study, env: str, algorithm: str) -> Mapping[str, str]:
    """Return setting -> space for the search of an algorithm on an environment."""
    return study.tune.search or default_search(cell_config(study, env, algorithm, TUNING_SEED).learner.lr)


def trial_config(study: Study, env: str, algorithm: str, folder: Path) -> Configure:
    """Return a function that maps the number and settings of a trial to its configuration.

    Trials have the seed TUNING_SEED, are evaluated on validation prompts, and run in `folder`/trials/NUMBER.
    """

    def configure(number: int, settings: Mapping[str, Any]) -> TrainConfig:
        config = cell_config(study, env, algorithm, TUNING_SEED, settings)
        return replace(
            config,
            output=str(folder / "trials" / str(number)),
            evaluation=replace(config.evaluation, split="validation"),
        )

    return configure
