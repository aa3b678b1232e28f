"""The checkpoint that a run resumes from: the newest that verifies. Damaged ones are named and set aside."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError
from rlalign.storage import checkpoint

_STEP = re.compile(r"step-\d+(\.old)?")


@dataclass(frozen=True)
class Newest:
    """A verified checkpoint, and the newer ones that are damaged.

    Attributes:
        path: the checkpoint.
        state: its parts.
        manifest: its manifest.
        damaged: newer checkpoint -> what is wrong with it.
    """

    path: Path
    state: checkpoint.State
    manifest: dict[str, Any]
    damaged: dict[Path, str] = field(default_factory=dict)

    def set_damaged_aside(self) -> None:
        """Rename the damaged checkpoints, so that saves neither count nor keep them in place of whole ones."""
        for path in self.damaged:
            with contextlib.suppress(OSError):
                os.replace(path, path.with_name(f"damaged-{path.name}"))


def stored(folder: Path) -> list[Path]:
    """Return everything that was a checkpoint in `checkpoints/`, newest first, damaged ones included.

    Raises:
        FaultError: the folder does not exist or cannot be read. A run creates it before its first step.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise FaultError(
            f"'{folder}' cannot be read ({error.strerror}), so the state of the run is not known; restore the folder, "
            "or use --allow-change to start again at step 0"
        ) from error
    paths = [folder / name for name in names if _STEP.fullmatch(name)]
    # of one step, step-N is newer than step-N.old
    return sorted(paths, key=lambda path: (checkpoint.step_of(path), path.suffix != ".old"), reverse=True)


def newest(folder: Path, *, need: tuple[str, ...], lenient: bool = False) -> Newest | None:
    """Return the newest checkpoint that verifies; None if none was written yet.

    Args:
        folder: the folder of all checkpoints.
        need, lenient: as for `checkpoint.load`. A checkpoint that lacks a part is not damaged: it raises.

    Raises:
        FaultError: the folder cannot be read, all checkpoints are damaged, or a part is missing.
    """
    damaged: dict[Path, str] = {}
    for path in stored(folder):
        try:
            state, manifest = checkpoint.load(path, need=need, lenient=lenient)
        except checkpoint.DamagedError as error:
            damaged[path] = error.problem
            continue
        return Newest(path, state, manifest, damaged)
    if damaged:
        raise FaultError(
            f"no checkpoint in '{folder}' verifies, so nothing can be resumed: {'; '.join(damaged.values())}; restore "
            "a checkpoint from a copy"
        )
    return None


def newest_manifest(run_folder: Path) -> dict[str, Any]:
    """Return the newest readable manifest of a run folder; {} without one. No digest is computed."""
    with contextlib.suppress(FaultError):
        for path in stored(run_folder / "checkpoints"):
            with contextlib.suppress(FaultError):
                return checkpoint.read_manifest(path)
    return {}


def stored_identity(run_folder: Path) -> dict[str, Any]:
    """Return the identity of a run (see `rlalign.storage.identity`); {} without a checkpoint that holds one."""
    identity = newest_manifest(run_folder).get("identity")
    return identity if isinstance(identity, dict) else {}
