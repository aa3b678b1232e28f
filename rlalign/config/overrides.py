"""Settings by dotted name, as a command line, a TOML file or a search gives them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import current_setting, to_dict, update
from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import flatten


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises UserError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # of tomllib, or of a file that is not UTF-8
        raise UserError(f"'{path}' is not a TOML file: {error}") from error


def full_key(key: str) -> str:
    """Return the full dotted name of a setting. An ending such as `lr` stands for the least nested setting it ends.

    Raises:
        UserError: for an unknown or ambiguous ending.
    """
    settings = list(flatten(to_dict(TrainConfig())))
    if key in settings:
        return key
    endings = [k for k in settings if k.endswith("." + key)]
    depth = min((k.count(".") for k in endings), default=0)
    matches = [k for k in endings if k.count(".") == depth]
    if len(matches) > 1:
        raise UserError(f"setting '{key}' may be {' or '.join(matches)}; use the full name")
    if not matches:
        today = current_setting(key, None)[0]
        if today != key:
            raise UserError(
                f"unknown setting '{key}', which is {today} now; full fine-tuning is model.adapter.kind none"
            )
        last_words = {k.rpartition(".")[2] for k in settings}
        suggestion = did_you_mean(key, settings) or did_you_mean(key.rpartition(".")[2], last_words)
        raise UserError(f"unknown setting '{key}'.{suggestion or ' rlalign train --help lists them.'}")
    return matches[0]


def apply(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with settings changed. Text is converted to the type of its setting.

    A change of the group size alone keeps the number of samples per step: the number of prompts changes, so that equal
    steps stay equal samples.

    Raises:
        UserError: for an unknown setting, a value of the wrong type, or a group size that does not divide the samples.
    """
    if not changes:
        return config
    changes = {full_key(k): v for k, v in (current_setting(*change) for change in changes.items())}
    now = flatten(to_dict(config))
    typed = {k: _as(k, v, now.get(k)) for k, v in changes.items()}
    group = typed.get("rollout.group_size")
    if group and "rollout.prompts" not in typed:
        if config.samples_per_step % group:
            raise UserError(
                f"rollout.group_size {group} does not divide the {config.samples_per_step} samples per step; "
                "use a divisor, or set rollout.prompts too"
            )
        typed["rollout.prompts"] = config.samples_per_step // group
    return update(config, typed)


def _as(key: str, value: Any, now: Any) -> Any:
    """Return the value in the type of the setting's present value; for a setting that is null, as JSON parses it."""
    if isinstance(value, str) and not isinstance(now, str):
        if isinstance(now, list):
            return [value]
        try:
            value = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        except json.JSONDecodeError:
            if now is not None:
                raise UserError(f"{key}: expected {_words(now)}, got '{value}'") from None
    if isinstance(now, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(now, float | int | bool) and type(value) is not type(now):
        raise UserError(f"{key}: expected {_words(now)}, got {value!r}")
    return value


def _words(now: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(type(now), "a list")


def shown(value: Any, digits: int = 4) -> str:
    """Return the text of a setting's value, a float with `digits` significant digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
