"""A configuration as JSON and back: formats and their migration, changes by dotted key, differences, fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from rlalign.config.schema import ContinualConfig, RecordedConfig, TrainConfig
from rlalign.envs.task_order.options import TaskOptions
from rlalign.errors import UserError, did_you_mean
from rlalign.objective.spec import Objective
from rlalign.policies.options import DEFAULT_RANK
from rlalign.registry import ENVS, REWARDS
from rlalign.typecheck import checked, flatten, hints_of

D = TypeVar("D")

FORMAT = 2
"""Number of the format that `to_json` writes."""

_RENAMED: dict[int, dict[str, str]] = {
    1: {
        "reward": "rewards",
        "objective.data.dynamic_sampling": "objective.filter.dynamic_sampling",
        "objective.data.drop_truncated": "objective.filter.drop_truncated",
        "objective.data.overlong": "objective.filter.overlong",
        "objective.data.overlong_penalty": "objective.filter.overlong_penalty",
        "objective.data.entropy_coef": "objective.regularizer.entropy_coef",
        "objective.data.nll_coef": "objective.regularizer.nll_coef",
        "objective.data.nll_above": "objective.regularizer.nll_above",
    },
}
"""Migration table: format -> dotted key in that format -> dotted key in the next one."""

_ADDED: dict[str, Any] = {
    "model.on_adapter": None,
    "rollout.chat_template": "auto",
    "save_minutes": 10.0,
    "trust_run": False,
    "rollout.max_prompt": None,
    "on_bad_record": "fail",
    "data": None,
    **flatten({"recorded": dataclasses.asdict(RecordedConfig())}),
    **flatten({"objective": {"preference": dataclasses.asdict(Objective().preference)}}),
    "teacher": None,
    "distill.reward_coef": 0.0,
    "objective.advantage": "none",
    "callbacks": [],
    "metrics": [],
    **flatten({"continual": dataclasses.asdict(ContinualConfig())}),
    **flatten({"tasks": dataclasses.asdict(TaskOptions())}),
    "model.base": "none",
    "model.adapter.targets": "auto",
    "model.adapter.tokens": 16,
}
"""Settings that format 2 did not have at first, with the value that leaves a run what it was without them."""

_MOVED = re.compile(r"\brlalign\.(envs|rewards)\.(\w+):")
"""Format 1: a function of a built-in file, named by its module. These files moved to builtin/."""

# Keys that may differ between a run and its continuation without changing what the steps compute.
_SAFE = {"steps", "output", "save_every", "save_minutes", "keep", "resume", "allow_change", "trust_run", "device"}
_SAFE |= {"evaluation", "tracking"}


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration as it is stored in config.json and search.json: the format number and every setting."""
    return {"format": FORMAT, **to_dict(config)}


def from_json(data: Any) -> TrainConfig:
    """Return the configuration that `to_json` of this or an earlier version returned.

    Raises:
        UserError: for an unknown setting, a value of the wrong type, or a format newer than this version writes.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"a configuration: expected an object of settings, got {data!r}")
    number = data.get("format", 1)  # the first format had no number
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise UserError(f"a configuration: expected a format from 1 to {FORMAT}, got {number!r}; use a newer rlalign")
    settings = {key: value for key, value in data.items() if key != "format"}
    if isinstance(settings.get("model"), Mapping):
        settings["model"] = _with_adapter_group(settings["model"])
    for old in range(number, FORMAT):
        settings = _renamed(settings, _RENAMED[old])
    if number == 1:
        modules = _modules_by_old_name()
        settings["rewards"] = [_moved(spec, modules) for spec in settings.get("rewards", ())]
        settings["env"] = _moved(settings.get("env", TrainConfig.env), modules)
    return from_dict(TrainConfig, settings)


_LORA = {"lora_r": "adapter.r", "lora_alpha": "adapter.alpha"}
"""Settings of a policy before adapters had kinds -> settings of today. A lora_r of 0 was adapter.kind none."""


def current_setting(key: str, value: Any) -> tuple[str, Any]:
    """Return a setting under its name of today.

    Args:
        key: dotted key, of today or of the time before `model.adapter`.
        value: its value.

    Example:
        >>> current_setting("model.lora_r", 4), current_setting("model.lora_r", 0)
        (('model.adapter.r', 4), ('model.adapter.kind', 'none'))
    """
    section, _, name = key.rpartition(".")
    if name not in _LORA or section not in ("", "model"):
        return key, value
    if name == "lora_r" and str(value) == "0":
        return "model.adapter.kind", "none"
    return f"model.{_LORA[name]}", value


def _with_adapter_group(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a policy with `lora_r` and `lora_alpha`, if it has them, in the group `adapter`."""
    settings = {key: value for key, value in model.items() if key not in _LORA}
    for name in _LORA:
        if name in model:
            key, value = current_setting(f"model.{name}", model[name])
            settings["adapter"] = {**settings.get("adapter", {}), key.rpartition(".")[2]: value}
    return settings


def _modules_by_old_name() -> dict[tuple[str, ...], str]:
    """Return ("envs" or "rewards", file) -> dotted name of the built-in module today."""
    modules: dict[tuple[str, ...], str] = {}
    for path in [*ENVS.built_in.values(), *REWARDS.built_in.values()]:
        package, _, file = path.partition(":")[0].rpartition(".")
        modules[package.split(".")[1], file] = f"{package}.{file}"
    modules["envs", "texts"] = "rlalign.envs.builtin.texts"
    return modules


def _moved(spec: str, modules: Mapping[tuple[str, ...], str]) -> str:
    """Return a spec with the module of a built-in function where it stands today."""
    return _MOVED.sub(lambda match: f"{modules.get(match.groups(), match[0][:-1])}:", spec)


def _renamed(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return nested settings with dotted keys renamed; other keys stay as they are."""
    nested: dict[str, Any] = {}
    for key, value in flatten(data).items():
        at, parts = nested, names.get(key, key).split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        at[parts[-1]] = value
    return nested


def from_dict(cls: type[D], data: Mapping[str, Any], where: str = "") -> D:
    """Return the dataclass of a plain dictionary. Missing keys take their defaults.

    Raises:
        UserError: for an unknown key, with a suggestion, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where.removesuffix('.') or 'a configuration'}: expected an object of settings, got {data!r}")
    hints = hints_of(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]  # D is a dataclass by contract
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in names:
            raise UserError(f"unknown setting '{where}{key}'.{did_you_mean(key, names)}")
        values[key] = _typed(hints[key], value, where + key)
    return cls(**values)


def _typed(hint: Any, value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(hint):
        return checked(hint, value, name)
    assert isinstance(hint, type)
    return value if isinstance(value, hint) else from_dict(hint, value, f"{name}.")


def update(config: D, changes: Mapping[str, Any]) -> D:
    """Return a copy with dotted keys replaced: `update(config, {"learner.lr": 1e-4})`.

    Raises:
        UserError: for an unknown key, with a suggestion.
    """
    data = to_dict(config)
    for key, value in (current_setting(*change) for change in changes.items()):
        at, parts = data, key.split(".")
        for i, part in enumerate(parts):
            if not isinstance(at, dict) or part not in at:
                names = sorted(at) if isinstance(at, dict) else []
                raise UserError(f"unknown setting '{key}'.{did_you_mean('.'.join(parts[i:]), names)}")
            if i < len(parts) - 1:
                at = at[part]
        at[parts[-1]] = list(value) if isinstance(value, tuple) else value
    return from_dict(type(config), data)


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (old value, new value) for every setting that differs."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def unsafe(key: str, config: TrainConfig) -> bool:
    """Return whether a change of this key makes the continuation another experiment."""
    if key == "steps" and config.learner.lr_schedule != "constant":
        return True  # the schedule's shape depends on the end
    if key == "steps" and config.model.adapter.kind == "adalora":
        return True  # so does that of the ranks
    if key == "steps" and config.continual.replay and config.continual.replay_schedule != "constant":
        return True
    return key.split(".")[0] not in _SAFE and key != "model.trust_remote_code"


def fingerprint(config: TrainConfig, *, number: int = FORMAT) -> str:
    """Return the sha256 of the settings that decide a run's result, under the keys of format `number`."""
    deciding = {k: v for k, v in flatten(to_dict(config)).items() if unsafe(k, config)}
    deciding["model.trust_remote_code"] = False  # permission is no setting, and config.json never grants it
    deciding |= _lora_keys(deciding)
    # a setting at the value that changes nothing is left out, so that the checkpoints of earlier runs keep theirs
    deciding = {k: v for k, v in deciding.items() if k not in _ADDED or v != _ADDED[k]}
    for newer in reversed(range(number, FORMAT)):
        old_key = {new: old for old, new in _RENAMED[newer].items()}
        deciding = {old_key.get(k, k): v for k, v in deciding.items()}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _lora_keys(deciding: dict[str, Any]) -> dict[str, Any]:
    """Remove the kind, rank and scale of an adapter from flat settings; return them under the keys they always had.

    The fingerprint of a run with LoRA or full fine-tuning is that of the time before `model.adapter`.
    """
    if "model.adapter.kind" not in deciding:
        return {}
    kind, rank, alpha = (deciding.pop(f"model.adapter.{name}") for name in ("kind", "r", "alpha"))
    if kind == "none":
        rank = 0
    elif kind == "lora" and rank is None:
        rank = DEFAULT_RANK
    keys = {"model.lora_r": rank, "model.lora_alpha": alpha}
    return keys if kind in (None, "none", "lora") else {**keys, "model.adapter.kind": kind}


def same_experiment(config: TrainConfig, stored: str) -> bool:
    """Return whether a stored fingerprint, of whichever format, is that of this configuration."""
    return any(fingerprint(config, number=number) == stored for number in range(1, FORMAT + 1))
