"""Settings by dotted name and as text, as they come from a command line, a TOML file or a search."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict, update
from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import flatten


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises UserError for a file that is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:  # tomllib's, or a text that is no UTF-8
        raise UserError(f"'{path}' is no TOML file: {error}") from error


def full_key(key: str) -> str:
    """The dotted name of a setting: `lr` stands for `learner.lr`, as does any ending for the least nested it ends."""
    known = list(flatten(to_dict(TrainConfig())))
    if key in known:
        return key
    endings = [k for k in known if k.endswith("." + key)]
    meant = [k for k in endings if k.count(".") == min(e.count(".") for e in endings)]
    if len(meant) > 1:
        raise UserError(f"setting '{key}' may be {' or '.join(meant)}: give it in full")
    if not meant:
        near = did_you_mean(key, known) or did_you_mean(key.rpartition(".")[2], {k.rpartition(".")[2] for k in known})
        raise UserError(f"unknown setting '{key}'.{near or ' rlalign train --help lists them.'}")
    return meant[0]


def apply(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """The configuration with settings changed; text becomes what the setting is.

    A change of the group's size alone keeps the samples of a step: there are fewer or more prompts instead, so that a
    budget of steps stays a budget of samples.
    """
    if not changes:
        return config
    changes = {full_key(k): v for k, v in changes.items()}
    now = flatten(to_dict(config))
    typed = {k: _as(k, v, now.get(k)) for k, v in changes.items()}
    group = typed.get("rollout.group_size")
    if group and "rollout.prompts" not in typed:
        if config.samples_per_step % group:
            raise UserError(
                f"rollout.group_size {group} does not divide the {config.samples_per_step} samples of a step: "
                "choose a divisor, or set rollout.prompts too"
            )
        typed["rollout.prompts"] = config.samples_per_step // group
    return update(config, typed)


def _as(key: str, value: Any, now: Any) -> Any:
    """The value as the type that the setting has now; a setting that is null now takes whatever JSON reads."""
    if isinstance(value, str) and not isinstance(now, str):
        if isinstance(now, list):
            return [value]
        try:
            value = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except json.JSONDecodeError:
            if now is not None:
                raise UserError(f"{key} is '{value}': it must be {_words(now)}") from None
    if isinstance(now, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(now, float | int | bool) and type(value) is not type(now):
        raise UserError(f"{key} is {value!r}: it must be {_words(now)}")
    return value


def _words(now: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(type(now), "a list")


def shown(value: Any, digits: int = 4) -> str:
    """A setting's value in a text; a float in so many significant digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
