"""The chain of runs that a run continues, with digests, in the manifest of its checkpoints.

A run whose policy is that of a former run, its parent, records this run and the parent's own chain. Each entry is found
again by its path relative to the run that records it, or by its absolute path, and compared with its digests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.folder_kind import is_model
from rlalign.storage.identity import digest_of_file
from rlalign.storage.newest import newest_manifest
from rlalign.storage.run_folder import read_config

_MODEL_FILES = (".json", ".jinja", ".model", ".py", ".safetensors", ".txt")
_INSIDE = (Path(), Path("policy"), Path("policy/adapter"))  # paths of a policy below the folder of its run


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A former run, as the run that continues it records it.

    Attributes:
        name: of its folder.
        path: absolute path at that time.
        relative: path from the folder of the run that records it.
        policy: sha256 over the files of its `policy/`; empty: not recorded (of a run of before).
        config: sha256 of its config.json; empty: not recorded.
    """

    name: str
    path: str
    relative: str
    policy: str
    config: str


@dataclass(frozen=True)
class Link:
    """A former run as it is found now.

    Attributes:
        ancestor: the record.
        path: its folder; None: it is at neither of the recorded paths.
        problems: sentences about what is not as recorded; empty: nothing.
        config_changed: config.json is not the recorded one, or is missing.
    """

    ancestor: Ancestor
    path: Path | None
    problems: tuple[str, ...] = ()
    config_changed: bool = False


_FIELDS = tuple(field.name for field in fields(Ancestor))


def parent_folder(policy: str) -> Path | None:
    """Return the run folder whose policy a policy name is: `runs/a`, `runs/a/policy` or `runs/a/policy/adapter`.

    Args:
        policy: as `TrainConfig.policy`.

    Returns:
        The folder, or None: the name is that of another policy.
    """
    path = Path(policy).expanduser()
    for inside in _INSIDE:
        folder = path.parents[len(inside.parts) - 1] if inside.parts else path
        if folder / inside == path and _is_run(folder):
            return folder
        if len(path.parts) <= len(inside.parts) + 1:
            break
    return None


def _is_run(folder: Path) -> bool:
    marks = ("checkpoints", "run.lock", "run.mark")  # a config.json alone may be that of a model or another program
    is_config = (folder / "config.json").is_file() and not is_model(folder)
    return is_config and (folder / "policy").is_dir() and any((folder / name).exists() for name in marks)


def digest_of_policy(folder: Path) -> str:
    """Return the sha256 over names and digests of the files in `policy/` of a run that decide what it computes.

    Args:
        folder: the run folder.
    """
    policy = folder / "policy"
    digest = hashlib.sha256()
    for path in sorted(policy.rglob("*")):
        if path.suffix in _MODEL_FILES and path.is_file():
            digest.update(f"{path.relative_to(policy).as_posix()} {digest_of_file(path)}\n".encode())
    return digest.hexdigest()


def recorded_chain(folder: Path, policy: str) -> list[Ancestor]:
    """Return the chain that a new run records, its parent first; [] if its policy is not that of a run.

    Args:
        folder: of the new run.
        policy: as its configuration names it.

    Raises:
        UserError: a file of the parent cannot be read.
    """
    parent = parent_folder(policy)
    if parent is None:
        return []
    first = _ancestor(parent, folder, digest_of_policy(parent), digest_of_file(parent / "config.json"))
    older = []
    for link in followed(stored_chain(parent), parent):
        place = Path(link.ancestor.path) if link.path is None else link.path
        older.append(_ancestor(place, folder, link.ancestor.policy, link.ancestor.config))
    return [first, *older]


def _ancestor(place: Path, folder: Path, policy: str, config: str) -> Ancestor:
    relative = os.path.relpath(place.resolve(), folder.resolve())
    return Ancestor(place.resolve().name, str(place.resolve()), relative, policy, config)


def stored_chain(folder: Path) -> list[Ancestor]:
    """Return the chain of a run from its newest checkpoint, its parent first.

    A run of before this record, or without a checkpoint, has the chain that its configuration names, without digests.

    Args:
        folder: the run folder.
    """
    chain = manifest_chain(folder)
    return list(_unrecorded(folder, folder)) if chain is None else chain


def manifest_chain(folder: Path) -> list[Ancestor] | None:
    """Return the chain in the newest manifest of a run; None if it holds none."""
    entries = newest_manifest(folder).get("chain")
    if not isinstance(entries, list):
        return None
    return [Ancestor(**{name: str(entry.get(name, "")) for name in _FIELDS}) for entry in entries]


def _unrecorded(folder: Path, of: Path, depth: int = 0) -> Iterator[Ancestor]:
    parent = parent_folder(read_config(of).policy)
    if parent is not None and depth < 100:  # an edited config.json may name its own run as parent
        yield _ancestor(parent, folder, "", "")
        yield from _unrecorded(folder, parent, depth + 1)


def followed(chain: Sequence[Ancestor], folder: Path) -> list[Link]:
    """Return each former run of a chain as it is found now, compared with its digests.

    Args:
        chain: of the run, its parent first.
        folder: of the run that records the chain.
    """
    return [_found(ancestor, folder) for ancestor in chain]


def _found(ancestor: Ancestor, folder: Path) -> Link:
    places = [folder / ancestor.relative, Path(ancestor.path)]
    candidates = [path for path in places if _is_run(path)]
    if not candidates:
        problem = f"'{ancestor.path}' is not there any more: it was moved or deleted"
        return Link(ancestor, None, (problem,), config_changed=True)
    links = [_compared(ancestor, path) for path in candidates]
    return next((link for link in links if not link.problems), links[0])


def _compared(ancestor: Ancestor, path: Path) -> Link:
    shown = os.path.normpath(path)
    if not ancestor.config:
        return Link(ancestor, Path(shown), (f"'{shown}' was recorded without digests, so a change would not be seen",))
    problems = []
    config_changed = digest_of_file(path / "config.json") != ancestor.config
    if config_changed:
        problems.append(f"config.json of '{shown}' has changed since the run that continues it started")
    if digest_of_policy(path) != ancestor.policy:
        problems.append(f"the policy of '{shown}' has changed since the run that continues it started")
    return Link(ancestor, Path(shown), tuple(problems), config_changed=config_changed)


def with_parent_found(config: TrainConfig, folder: Path, *, needed: bool = True) -> TrainConfig:
    """Return the configuration of a run with the path at which its parent lies now.

    Args:
        config: of the run.
        folder: of the run.
        needed: False returns the configuration as it is if the parent is gone.

    Raises:
        UserError: the parent is needed, and is neither where the configuration names it nor at a recorded path.
    """
    chain = manifest_chain(folder)
    if not chain or Path(config.policy).expanduser().exists():
        return config
    link = _found(chain[0], folder)
    if link.path is None and not needed:
        return config
    if link.path is None:
        raise UserError(
            f"'{folder}' began with the policy of '{chain[0].path}': {link.problems[0].partition(': ')[2]}; put it "
            "back, or evaluate with --baseline"
        )
    inside = [part for part in _INSIDE if Path(config.policy).parts[-len(part.parts) :] == part.parts and part.parts]
    return replace(config, policy=str(link.path / (inside[-1] if inside else Path())))


def is_parent_gone(config: TrainConfig, folder: Path) -> bool:
    """Return whether the initial policy of a run is that of a parent that is at none of its recorded paths.

    Args:
        config: of the run, from `with_parent_found`.
        folder: of the run.
    """
    return bool(manifest_chain(folder)) and not Path(config.policy).expanduser().exists()


def as_json(chain: Sequence[Ancestor]) -> list[Mapping[str, Any]]:
    """Return a chain as JSON values, for the manifest."""
    return [asdict(ancestor) for ancestor in chain]
