"""What must not change between a run and its continuation: settings, data, code, initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import differences, unsafe
from rlalign.continual.chain import is_parent_gone, with_parent_found
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.model_files import is_missing_folder
from rlalign.storage import checkpoint
from rlalign.storage.folder_kind import check_run
from rlalign.storage.identity import Change, Identity, changed_files, changes, is_of_tasks
from rlalign.storage.newest import newest_manifest, stored_identity
from rlalign.storage.run_folder import read_config


def check_resume(folder: Path, config: TrainConfig, console: PlainConsole) -> TrainConfig:
    """Print the settings, files and package versions that differ from those of the run in the folder.

    No code is imported, no weight is loaded and nothing is written.

    Returns:
        The configuration, with the path at which the parent of the run lies now.

    Raises:
        UserError: when there is no run, when it has more steps, or when a difference decides the result.
    """
    check_run(folder)
    found = _with_initial_policy(folder, config)
    checkpoints = checkpoint.complete(folder / "checkpoints")
    done = checkpoint.step_of(checkpoints[-1]) if checkpoints else 0
    if config.steps < done:
        raise UserError(f"'{folder}' has done {done} steps already; use --steps {done} or more")
    changed = differences(read_config(folder), config)
    own = ("resume", "output", "allow_change", "trust_run", "model.trust_remote_code")
    changed = {k: v for k, v in changed.items() if k not in own}
    if "algorithm" in changed:
        raise UserError(
            f"this is a run of {changed['algorithm'][0]}, and the name alone changes nothing; start a new run, or "
            "change single axes with --objective.* and --allow-change"
        )
    for key, (old, new) in changed.items():
        console.print(f"changed: {key}  {old!r} -> {new!r}", soft_wrap=True)
    versions = newest_manifest(folder).get("versions", {})
    for package, version in checkpoint.versions().items():
        if versions.get(package, version) != version:
            console.print(f"changed: version of {package}  {versions[package]} -> {version}", soft_wrap=True)
    if found.policy != config.policy:
        console.print(f"the parent '{config.policy}' lies in '{found.policy}' now", soft_wrap=True)
    _refuse([k for k in changed if unsafe(k, config)], changed_files(folder, found), config, console)
    return found


def _with_initial_policy(folder: Path, config: TrainConfig) -> TrainConfig:
    """Return the configuration with the path at which a parent lies now.

    Raises:
        UserError: the folder of the initial policy is at no recorded path.
    """
    if config.policy != read_config(folder).policy or Path(config.policy).expanduser().exists():
        return config
    found = with_parent_found(config, folder, needed=False)
    if found is not config or not (is_parent_gone(config, folder) or is_missing_folder(config.policy)):
        return found
    place = Path(config.policy).expanduser().absolute()
    raise UserError(
        f"'{folder}' began with the policy '{config.policy}', and a resumed run reads its files again: expected the "
        f"folder '{place}', got none; move or link the folder to that path, then use "
        f"rlalign train --resume {folder}"
    )


def check_source(folder: Path, config: TrainConfig, identity: Identity, console: PlainConsole) -> None:
    """Print and refuse a change of what no file of the configuration holds: tasks, and recorded data of the hub.

    Raises:
        UserError: the tasks or the recorded data are not those of the run.
    """

    def content(found: Mapping[str, Any]) -> dict[str, Any]:
        return {role: entry for role, entry in found.items() if is_of_tasks(role) or role.startswith("hub data ")}

    old, new = content(stored_identity(folder)), content(identity)
    _refuse([], changes(old, new), config, console)


def _refuse(keys: Sequence[str], files: Sequence[Change], config: TrainConfig, console: PlainConsole) -> None:
    for change in files:
        console.print(f"changed: {change}", soft_wrap=True)
    refused = [*keys, *(change.role for change in files)]
    if refused and not config.allow_change:
        raise UserError(
            f"{', '.join(refused)} would make the continuation another experiment; start a new run, or insist with "
            "--allow-change"
        )
