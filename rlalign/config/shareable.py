"""The settings of a run as others may read them: without folders of this machine, passwords and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from rlalign.config.schema import TrainConfig
from rlalign.envs.mixture.spec import map_envs
from rlalign.escaping.shareable import shareable_spec

_KEPT = ("project", "push")
"""Settings that name a place of a tracker or of the Hub, as `/Users/me/experiment` of an MLflow server."""
_Value = TypeVar("_Value")


def shareable_setting(name: str, value: Any) -> Any:
    """Return the value of a setting, or the settings of a section, with each path reduced to its name.

    Args:
        name: of the setting, without its section.
        value: a JSON value.

    Example:
        >>> shareable_setting("env", "sort=0.5,/home/me/b.jsonl=0.5")
        'sort=0.5,b.jsonl=0.5'
    """
    if name in _KEPT:
        return value
    if isinstance(value, str):
        return map_envs(value, shareable_spec) if name == "env" else shareable_spec(value)
    if isinstance(value, Mapping):
        return {key: shareable_setting(str(key), entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shareable_setting(name, entry) for entry in value)
    return value


def shareable_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration with each text as others may read it. It describes the run and cannot repeat it."""
    return _changed(config)


def _changed(part: _Value) -> _Value:
    changes = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        changes[field.name] = _changed(value) if is_dataclass(value) else shareable_setting(field.name, value)
    return replace(part, **changes)  # type: ignore[type-var]
