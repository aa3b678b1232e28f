"""Checkpoints that survive a kill at any instruction, a full disk and a flipped bit. Nothing is pickled.

Recipe: write `tmp-step-N/`, fsync its files, write a manifest (sha256 of each file, configuration hash, versions),
fsync, rename to `step-N/`, prune. A folder without a manifest is not a checkpoint; one that does not verify is an
error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlalign.errors import FaultError, UserError

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)(\.old)?")
_ENTRIES = {"step": int, "parts": list, "files": dict, "config": str, "versions": dict}
_TENSOR = "__tensor__"
_OWN_DIGEST = "sha256"  # of the manifest's other entries; manifests of before have none

State = dict[str, Any]  # part name ("policy", "optimizer", ...) -> nested dict/list of tensors and JSON values


def save(
    folder: Path,
    step: int,
    state: State,
    *,
    config_hash: str,
    keep: int = 2,
    identity: Mapping[str, Any] | None = None,
    chain: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write `folder/step-N` atomically, delete all but the newest `keep` checkpoints, and return the path.

    Args:
        folder: the folder of all checkpoints.
        step: N.
        state: part name -> nested dict or list of tensors and JSON values.
        config_hash: fingerprint of the run's configuration.
        keep: checkpoints to keep.
        identity: digests of what decides the run's result (see `rlalign.storage.identity`); None: not stored.
        chain: former runs that the run continues, with digests (see `rlalign.continual.chain`); None: not stored.

    Raises:
        FaultError: when the disk is full or the folder cannot be written. Earlier checkpoints are intact, and the
            partial one is deleted.
    """
    final = folder / f"step-{step}"
    tmp = folder / f"tmp-step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        for part, content in state.items():
            tensors: dict[str, Tensor] = {}
            plain = _split(content, part, tensors)
            _write(tmp / f"{part}.json", json.dumps(plain).encode())
            if tensors:
                save_file(tensors, tmp / f"{part}.safetensors")
                _fsync(tmp / f"{part}.safetensors")
        files = {p.name: {"sha256": _sha256(p), "bytes": p.stat().st_size} for p in sorted(tmp.iterdir())}
        manifest = {"step": step, "parts": list(state), "files": files, "config": config_hash, "versions": versions()}
        if identity is not None:
            manifest["identity"] = dict(identity)
        if chain is not None:
            manifest["chain"] = list(chain)
        manifest[_OWN_DIGEST] = _digest_of(manifest)
        _write(tmp / MANIFEST, json.dumps(manifest, indent=1).encode())
        _fsync(tmp)
        aside = folder / f"step-{step}.old"
        if final.exists():  # one step is saved twice: the old copy stays valid, as .old, until the new one is in place
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(final, aside)
        os.replace(tmp, final)
        _fsync(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(tmp, ignore_errors=True)
        reason = f"'{folder}' cannot be written ({getattr(error, 'strerror', None) or error})"
        fix = "make it writable and resume"
        if _disk_is_full(error):
            reason = f"no space left on the disk of '{folder}'"
            fix = "free space and resume"
        elif not isinstance(error, OSError | SafetensorError):
            raise
        intact = " and ".join(p.name for p in complete(folder)) or "no earlier one"
        raise FaultError(f"{reason}: checkpoint step-{step} was not written, {intact} intact; {fix}") from error
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for partial in folder.glob("tmp-step-*"):
        shutil.rmtree(partial, ignore_errors=True)
    return final


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints with a manifest, oldest first."""
    paths = [p for p in folder.glob("step-*") if (p / MANIFEST).is_file() and _NAME.fullmatch(p.name)]
    # A kill between the two renames of `save` leaves only step-N.old. Sorted last, step-N wins where both exist.
    by_step = {step_of(p): p for p in sorted(paths, key=lambda p: p.suffix != ".old")}
    return [by_step[step] for step in sorted(by_step)]


def step_of(path: Path) -> int:
    """Return the step of a path that `complete` returned."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def latest(folder: Path) -> Path:
    """Return the newest complete checkpoint of a `checkpoints/` folder. Raises UserError when there is none."""
    paths = complete(folder)
    if not paths:
        raise UserError(
            f"no complete checkpoint in '{folder}', so nothing can be resumed; start again without --resume"
        )
    return paths[-1]


class DamagedError(FaultError):
    """A checkpoint whose manifest or files are not those that were written. The message names the file."""

    def __init__(self, file: Path, problem: str) -> None:
        self.problem = f"'{file}' {problem}"
        super().__init__(f"{self.problem}; remove '{file.parent}' to use the checkpoint before it")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint.

    Raises:
        DamagedError: it is missing, not JSON, lacks an entry, or is not what was written.
    """
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes().decode())
    except OSError as error:
        raise DamagedError(file, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise DamagedError(file, f"is damaged ({error})") from error
    problem = _manifest_problem(manifest)
    if problem:
        raise DamagedError(file, f"is damaged ({problem})")
    return dict(manifest)


def _manifest_problem(manifest: Any) -> str:
    """Return how a manifest differs from what `save` writes; empty: it does not."""
    if not isinstance(manifest, dict):
        return f"expected an object, got {type(manifest).__name__}"
    for key, kind in _ENTRIES.items():
        if not isinstance(manifest.get(key), kind):
            return f"expected {kind.__name__} for '{key}', got {manifest.get(key)!r:.40}"
    unknown = sorted(manifest.keys() - _ENTRIES.keys() - {"identity", "chain", _OWN_DIGEST})
    if unknown:  # a flipped bit in the name of an entry
        return f"unknown entry {unknown[0]!r}"
    if _OWN_DIGEST in manifest and manifest[_OWN_DIGEST] != _digest_of(manifest):
        return "its sha256 is not that of its entries"
    for name, entry in manifest["files"].items():
        if Path(name).name != name or not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            return f"unusable entry {name!r:.40}"
    return ""


def _digest_of(manifest: Mapping[str, Any]) -> str:
    entries = {key: value for key, value in manifest.items() if key != _OWN_DIGEST}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def load(path: Path, *, need: tuple[str, ...] = (), lenient: bool = False) -> tuple[State, dict[str, Any]]:
    """Verify and read a checkpoint; return (state, manifest).

    Args:
        path: the checkpoint.
        need: parts that must be present.
        lenient: leave missing parts out instead.

    Raises:
        DamagedError: names the file when the manifest is damaged, or a file is missing, unreadable or not as written.
        FaultError: a part was not saved, or its file is missing.
    """
    manifest = read_manifest(path)
    missing = [part for part in need if part not in manifest["parts"] or not (path / f"{part}.json").is_file()]
    if missing and not lenient:
        raise FaultError(
            f"checkpoint '{path}' lacks {', '.join(missing)}, so the continuation would be another run; "
            "use --allow-change to initialize these again"
        )
    for name, entry in manifest["files"].items():
        if name.split(".")[0] in missing:
            continue
        file = path / name
        try:
            digest = _sha256(file)
        except FileNotFoundError as error:
            raise DamagedError(file, "is missing from the checkpoint") from error
        except OSError as error:  # such as a sector that cannot be read
            raise DamagedError(file, f"cannot be read ({error.strerror})") from error
        if digest != entry["sha256"]:
            raise DamagedError(file, "is damaged (its sha256 is not the manifest's)")
    state: State = {}
    for part in manifest["parts"]:
        if part in missing:
            continue
        stored = path / f"{part}.safetensors"
        try:
            tensors = load_file(stored) if stored.exists() else {}
        except SafetensorError as error:
            raise DamagedError(stored, f"is not a safetensors file ({error})") from error
        state[part] = _join(json.loads((path / f"{part}.json").read_text()), tensors)
    return state, manifest


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    names = ("rlalign", "torch", "transformers", "peft", "gymnasium", "trl", "numpy")
    return {name: _installed_version(name) for name in names}


@lru_cache  # it reads files, and each save needs it
def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "source"


# ---- a nested structure as one JSON file and one safetensors file ----


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # copy: safetensors refuses tensors that share memory, such as tied embeddings
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"__dict__": [[k, _split(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} in a checkpoint ({name})")


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {k: _join(v, tensors) for k, v in value["__dict__"]}
    return [_join(v, tensors) for v in value] if isinstance(value, list) else value


def _disk_is_full(error: BaseException) -> bool:
    # safetensors raises a type of its own, with the system's error number only in its text
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"os error {n})" in str(error) for n in full)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
