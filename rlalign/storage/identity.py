"""The identity of an experiment: digests of data, of the user's code and of initial weights, and package versions.

The manifest of each checkpoint holds it. A run that is resumed, a study that is continued and an evaluation compare it
with what the configuration names now.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlalign.algorithms import OFFLINE, OUTSIDE
from rlalign.config.defaults import from_scratch
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.envs.encoded_prompts import is_finite
from rlalign.envs.initial_context import task_at
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.mixture.spec import env_specs
from rlalign.envs.spec import EnvSpec
from rlalign.envs.task_sources import SPLITS, is_data
from rlalign.errors import RecordError, UserError
from rlalign.policies.factory import policy_path
from rlalign.policies.model_files import ModelFiles, sha256
from rlalign.registry import ENVS, POLICIES, REWARDS, TASK_ORDERS
from rlalign.rewards.columns import items_of
from rlalign.rewards.reward_model.folder import model_files
from rlalign.rewards.reward_model.function import is_folder, is_url
from rlalign.rewards.specs import split
from rlalign.rewards.weights import split_bound
from rlalign.storage.newest import stored_identity
from rlalign.storage.user_files import expanded, user_files
from rlalign.typecheck import flatten
from rlalign.types import TaskSource

Identity = dict[str, dict[str, str]]
"""Role, such as `reward r.py` -> {"sha256": digest, "path": where it lay}."""

TRACKER = "tracker"
"""Role of trackers: their code runs and must be trusted, but it does not decide what a run computes."""

_TEACHER_ROLES = {"policy": "teacher", "hub": "hub teacher"}
_BUILT_IN = (ENVS, REWARDS, POLICIES, TASK_ORDERS)
_MODEL_FILES = (".json", ".jinja", ".model", ".py", ".safetensors", ".txt")


TASKS = "data"
"""Role of the tasks of an environment whose content no file of the configuration holds."""
TASKS_OF = "tasks of "
"""The same in a mixture, before the name of the environment."""


def is_of_tasks(role: str) -> bool:
    """Return whether a role is that of tasks, which only the environment itself can tell."""
    return role == TASKS or role.startswith(TASKS_OF)


@dataclass(frozen=True)
class Change:
    """A part of an experiment that is not what it was.

    Attributes:
        role: such as `reward r.py`.
        old, new: digests; empty: there was none, or there is none.
        path: where it lies now, or lay.
    """

    role: str
    old: str
    new: str
    path: str

    def __str__(self) -> str:
        if not self.new:
            return f"{self.role} is not there any more  ({self.path})"
        return f"{self.role}  {self.old[:12] or 'not there before'} -> {self.new[:12]}  ({self.path})"


def identity_of(config: TrainConfig) -> Identity:
    """Return the digests of the files that a configuration names. Imports no code and loads no weight."""
    code = {role: path for role, path in code_files(config).items() if not role.startswith(f"{TRACKER} ")}
    files = {**_data_files(config), **code, **_weight_files(config.policy), **_teacher_files(config)}
    with ThreadPoolExecutor(4) as pool:  # hashlib releases the lock of the interpreter
        digests = pool.map(digest_of_file, files.values())
        return {
            role: {"sha256": digest, "path": str(path.absolute())}
            for (role, path), digest in zip(files.items(), digests, strict=True)
        }


def source_identity(config: TrainConfig, mdp: TextMDP) -> Identity:
    """Return the digest of the tasks of an environment of the user's own or of data that is no file; else {}.

    Tasks of built-in environments are pinned by the version of this library, those of a data file by its digest, and
    those of a function by the digest of its code.
    """
    parts = parts_of(mdp)
    specs = _envs_of(config) or [""] * len(parts)  # an object has no spec
    identity: Identity = {}
    for (name, part), spec in zip(parts.items(), specs, strict=True):
        of_file = is_data(spec) and _path_of(spec) is not None
        if of_file or type(part).__module__.startswith("rlalign.envs.builtin") or not is_finite(part):
            continue
        identity[f"{TASKS_OF}{name}" if name else TASKS] = {
            "sha256": digest_of_tasks(part.source),
            "path": f"tasks of {part.id}",
        }
    return identity


def digest_of_tasks(source: TaskSource, *, places: bool = False) -> str:
    """Return the sha256 of all tasks of a finite source.

    Args:
        source: of the tasks.
        places: include the places of their records, which change if a file gets another name.
    """
    sizes = {split_name: source.size(split_name) for split_name in SPLITS}
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    for name, size in sizes.items():
        for index in range(size or 0):
            try:
                task = task_at(source, name, index)
                record: Any = [task.prompt, dict(task.columns), *([task.place] if places else [])]
            except RecordError as error:  # the pass over the data reports it, or leaves it out
                record = str(error)
            digest.update(_as_json(record).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _as_json(record: Any) -> str:
    """Return the JSON of a record with sorted keys; keys that JSON cannot sort or hold are written with their type."""
    try:
        return json.dumps(record, sort_keys=True, default=lambda x: type(x).__name__)
    except TypeError:
        return json.dumps(_with_typed_keys(record), default=lambda x: type(x).__name__)


def _with_typed_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        entries = [(f"{type(key).__name__} {key}", _with_typed_keys(entry)) for key, entry in value.items()]
        return dict(sorted(entries, key=lambda entry: entry[0]))
    return [_with_typed_keys(entry) for entry in value] if isinstance(value, list | tuple) else value


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the differences between two identities; [] if the old one is not known (of a run of before).

    Args:
        old: of a manifest.
        new: of `identity_of` or `source_identity`.
    """
    found = []
    for role in sorted({*old, *new} if old else ()):
        before, now = _entry(old.get(role)), _entry(new.get(role))
        absent = not before["sha256"] or not now["sha256"]
        if role.startswith("hub ") and absent:  # not in the cache at the time
            continue
        if before["sha256"] != now["sha256"]:
            found.append(Change(role, before["sha256"], now["sha256"], now["path"] or before["path"]))
    return found


def changed_files(folder: Path, config: TrainConfig) -> list[Change]:
    """Return the files that a configuration names and that are not those of the run in a folder.

    The content of tasks is left out: only the environment itself can tell it.
    """
    old = {role: entry for role, entry in stored_identity(folder).items() if not is_of_tasks(role)}
    return changes(old, identity_of(config)) if old else []


def code_specs(config: TrainConfig) -> list[tuple[str, str]]:
    """Return (role, `file.py:attr` or `module:attr`) of the specs in a configuration that run code."""
    specs = [("environment", str(EnvSpec.parse(env).target)) for env in _envs_of(config) if not is_data(env)]
    specs += [("reward", name) for name, _ in _rewards_of(config)]
    for role, names in (("callback", config.callbacks), ("metric", config.metrics)):
        specs += [(role, name) for name in names if not name.startswith(OBJECT)]  # an object is never loaded by name
    specs += [(TRACKER, name) for name in config.tracking.trackers]
    for key, value in flatten(to_dict(config)).items():
        other_trainer = key == "algorithm" and value in {*OUTSIDE, *OFFLINE}
        named = key in ("policy", "teacher", "algorithm") and not other_trainer
        if named or key.startswith(("objective.", "tasks.")):
            specs.append((key, str(value)))
    return [(role, spec) for role, spec in dict.fromkeys(specs) if _is_code(spec)]


def _envs_of(config: TrainConfig) -> list[str]:
    """Return the specs of the environments of a configuration; none for an object."""
    return [] if config.env.startswith(OBJECT) else env_specs(config.env)


def code_files(config: TrainConfig) -> dict[str, Path]:
    """Return role -> path of the user's files that a configuration runs, with the modules beside them they import."""
    return {f"{role} {name}": path for role, spec in code_specs(config) for name, path in user_files(spec).items()}


def _is_code(spec: str) -> bool:
    """Return whether a spec names code that is not built in. `rlalign.registry.load` runs it under any prefix."""
    if is_url(spec) and spec not in REWARDS:  # a reward-model server
        return False
    return ":" in spec and not any(spec in registry.built_in.values() for registry in _BUILT_IN)


def _rewards_of(config: TrainConfig) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and parameters of each reward of a configuration and of the members of ensembles, at any depth."""
    waiting = [reward.removeprefix("+") for reward in config.rewards]
    waiting = [reward for reward in waiting if not reward.startswith(OBJECT)]  # an object has no file
    while waiting:
        name, parameters, _ = split(split_bound(waiting.pop(0))[0])
        waiting += items_of(parameters.get("of", ""))
        yield name, parameters


def _data_files(config: TrainConfig) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for env in _envs_of(config):
        path = _path_of(env) if is_data(env) else None
        if path is not None:
            files[f"data {path.name}" if f"data {path.name}" not in files else f"data {path}"] = path
    files |= _preference_files(config.data)
    for name, parameters in _rewards_of(config):  # a reward model, a word list, or the folder of a classifier
        if name not in REWARDS and is_folder(name):
            folder = expanded(name)
            files |= {f"reward {folder.name}/{file}": path for file, path in model_files(folder).items()}
        for key, value in parameters.items():
            files |= _named_files(f"reward {Path(name).name}?{key}=", expanded(value))
    return files


def _preference_files(data: str | None) -> dict[str, Path]:
    """Return role -> path of the file or the files of a folder with preference data; {} for the hub, or without it."""
    path = expanded(data or "")
    if data and path.is_dir():
        inside = (file for file in sorted(path.rglob("*")) if file.suffix in (".arrow", ".json"))
        return {f"preferences {file.relative_to(path)}": file for file in inside if file.is_file()}
    return {f"preferences {path.name}": path} if data and path.is_file() else {}


def _path_of(env: str) -> Path | None:
    path = expanded(str(EnvSpec.parse(env).target).partition("?")[0])
    return path if path.is_file() else None


def _named_files(role: str, path: Path) -> dict[str, Path]:
    """Return the files of a path that a value names: the file, or the files of a model folder."""
    try:
        if path.suffix and path.is_file():
            return {f"{role}{path.name}": path}
        if path.is_dir() and (path / "config.json").is_file():
            return {f"{role}{file.name}": file for file in _model_files(path)}
    except (OSError, ValueError):  # a text that cannot be a path
        pass
    return {}


def _weight_files(policy: str) -> dict[str, Path]:
    """Return role -> path of the files of an initial policy: weights, tokenizer, adapter, and the adapter's base."""
    if policy.startswith(OBJECT) or (from_scratch(policy) and not Path(policy).is_dir()):
        return {}
    folder = expanded(policy)
    if not folder.is_dir():
        return {} if policy in POLICIES or ":" in policy else _hub_files("hub", policy)
    files = {f"policy {path.name}": path for path in _model_files(folder)}
    adapter = files.get("policy adapter_config.json")
    if adapter is None:
        return files
    base = str((ModelFiles(str(folder)).read_json(adapter.name) or {}).get("base_model_name_or_path") or "")
    for candidate in (Path(base), folder / base, folder.parent / Path(base).name, folder / Path(base).name):
        if base and candidate.is_dir():
            return files | {f"policy base {path.name}": path for path in _model_files(candidate)}
    return files | (_hub_files("hub base", base) if base else {})


def _teacher_files(config: TrainConfig) -> dict[str, Path]:
    """Return role -> path of the files of a teacher; {} without one, and for a server, whose weights nobody can see."""
    if not config.teacher or is_url(config.teacher):
        return {}
    files = _weight_files(policy_path(config.teacher))
    return {re.sub("^(policy|hub)", lambda match: _TEACHER_ROLES[match[0]], role): path for role, path in files.items()}


def _model_files(folder: Path) -> list[Path]:
    """Return the files of a policy folder that decide what it computes. Raises UserError if it cannot be listed."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix in _MODEL_FILES and path.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"'{path}' cannot be read ({error.strerror}); make it readable, or use another path")


def _hub_files(role: str, name: str) -> dict[str, Path]:
    """Return the weight files of a hub id that are in the cache."""
    return {f"{role} {path.name}": path for path in ModelFiles(name).weight_files()}


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file, once per state of the file. Raises UserError if it cannot be read."""
    try:
        stat = path.stat()
        return _digest(os.fspath(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=4096)  # the cells of a study name the same files
def _digest(path: str, size: int, modified: int) -> str:
    return sha256(Path(path))


def _entry(value: Any) -> dict[str, str]:
    entry = value if isinstance(value, Mapping) else {}
    return {"sha256": str(entry.get("sha256", "")), "path": str(entry.get("path", ""))}
