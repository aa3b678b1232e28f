"""The command line that repeats a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rlalign.config.defaults import default_config, env_of_data
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.config.shareable import shareable_setting
from rlalign.config.validate import resolve
from rlalign.escaping.shareable import shareable_spec
from rlalign.typecheck import flatten

_SHORT = {
    "rewards": "--reward",
    "callbacks": "--callback",
    "metrics": "--metric",
    "objective.advantage": "--advantage",
}
_POLICIES = ("policy", "teacher")
_LEFT_OUT = ("output", "resume", "allow_change", "trust_run", "save_every", "save_minutes", "keep", "device")


def command_of(config: TrainConfig, *, folders: bool = True) -> str:
    """Return `rlalign train ...` with each setting that differs from the defaults of env, policy and algorithm.

    Settings that do not change the result are left out, as the folder and the trackers.

    Args:
        config: of the run.
        folders: False names files without their folders, which say nothing on another machine, and leaves out
            passwords and keys.
    """

    def shown(key: str, value: Any) -> str:
        if folders:
            return str(value)
        return str(_run_name(value) if key in _POLICIES else "") or str(shareable_setting(key, value))

    env = config.env
    of_data = config.data is not None and env == env_of_data(config.data, config.recorded.held_out)
    base = resolve(default_config(None if of_data else env, config.policy, config.algorithm, config.data))
    defaults = flatten(to_dict(base))
    words = ["rlalign", "train"]
    names = {"env": None if of_data else env, "policy": config.policy, "algorithm": config.algorithm}
    for name, value in {**names, "data": config.data}.items():
        if value is not None:
            words += [f"--{name}", shown(name, str(value))]
    for key, value in flatten(to_dict(config)).items():
        if key in names or key == "data" or key in _LEFT_OUT or key.startswith("tracking.") or value == defaults[key]:
            continue
        if key == "model.value":  # follows from the objective
            continue
        flag = _SHORT.get(key, f"--{key.replace('_', '-')}")
        if isinstance(value, bool):
            section, dot, name = key.rpartition(".")
            words.append(flag if value else f"--{section}{dot}no-{name}".replace("_", "-"))
            continue
        values = value if isinstance(value, list) else [value]
        words += [word for entry in values for word in (flag, shown(key.rpartition(".")[2], entry))]
    return shlex.join(words)


def _run_name(policy: str) -> str:
    """Return the name of the run folder of a policy folder, or of its adapter; empty for any other name.

    Example:
        >>> _run_name("/home/me/runs/a/policy"), _run_name("runs/a/policy/adapter"), _run_name("owner/policy")
        ('a', 'a/policy/adapter', '')
    """
    if shareable_spec(policy) == policy:  # a name, a hub id
        return ""
    parts = Path(policy).parts
    if len(parts) > 1 and parts[-1] == "policy":
        return parts[-2]
    return "/".join(parts[-3:]) if len(parts) > 2 and parts[-2:] == ("policy", "adapter") else ""


def has_objects(config: TrainConfig) -> bool:
    """Return whether a part of the run was passed as a Python object, which no command line names."""
    specs = [config.env, config.objective.advantage, *config.rewards, *config.callbacks, *config.metrics]
    return any(spec.removeprefix("+").startswith(OBJECT) for spec in specs)
