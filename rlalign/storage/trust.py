"""Run folders of other people: their configuration names code, which runs only if the user says so.

A folder without a valid mark (see `rlalign.storage.run_mark`) was written elsewhere, or its configuration or the code
below it was edited. If its configuration names code, it needs `--trust-run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.identity import Change, Identity, changed_files, code_files, code_specs, identity_of
from rlalign.storage.newest import stored_identity
from rlalign.storage.run_mark import is_own


def check_trust(folder: Path, config: TrainConfig, *, trust: bool = False) -> list[Change]:
    """Return the files of a run's configuration that differ from those that the run was trained with.

    Args:
        folder: the run folder.
        config: its configuration.
        trust: the user trusts the folder (`--trust-run`).

    Raises:
        UserError: the folder is not the user's own, names code, and is not trusted. Nothing was imported.
    """
    specs = code_specs(config)
    if (specs or config.model.trust_remote_code) and not trust and not is_own(folder, code_files(config).values()):
        described = "; ".join(_described(specs, identity_of(config), stored_identity(folder)))
        raise UserError(
            f"'{folder}' was not written by you on this machine, or was edited since, and its config.json runs code: "
            f"{described}; read it, then use --trust-run"
        )
    return changed_files(folder, config)


def _described(specs: Sequence[tuple[str, str]], identity: Identity, old: Mapping[str, Any]) -> list[str]:
    """Return the specs, and each file that they run with its digest and whether it is the run's."""
    lines = [f"{role} {spec}" for role, spec in specs] or ["trust_remote_code of its policy"]
    for role, entry in identity.items():
        if not role.endswith(".py"):
            continue
        known = old.get(role, {}).get("sha256")
        compared = "as in the run" if known == entry["sha256"] else "not as in the run"
        compared = "unknown to the run" if known is None else compared
        lines.append(f"{entry['path']} (sha256 {entry['sha256'][:12]}, {compared})")
    return lines
