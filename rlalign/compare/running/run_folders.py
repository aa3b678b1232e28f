"""Run folders before a run starts: refusal of foreign content, and resumption from a checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rlalign.algorithms import UNTRAINED
from rlalign.compare.running.workers import log_of
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import differences
from rlalign.errors import UserError
from rlalign.storage import checkpoint
from rlalign.storage.identity import changed_files
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, read_config

_POLL_SECONDS = 0.3
_LOCK_TIMEOUT = 10.0  # seconds; a process of a killed study needs a moment to release its folder
_MOST_NAMED = 4  # settings that a message names
# Settings that may change between two attempts at the same run.
_FREE = ("resume", "allow_change", "output", "save_every", "save_minutes", "keep", "trust_run", "tracking", "device")


def refuse_unrelated_files(folder: Path, *expected: str) -> None:
    """Raise UserError if a folder holds files and none of the expected ones.

    Hidden files, TOML files (the study itself may be stored there) and the lock are ignored.

    Args:
        folder: the output folder; it need not exist.
        expected: names of files or folders that the command writes.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    unrelated = sorted(n for n in names - {"run.lock"} if not n.startswith(".") and not n.endswith(".toml"))
    if unrelated and not names & set(expected):
        raise UserError(
            f"'{folder}': expected an empty folder or one with {' or '.join(expected)}, got one with '{unrelated[0]}'; "
            "use another --output"
        )


def refuse_other_run(folder: Path, config: TrainConfig) -> None:
    """Raise UserError if a folder holds a run with other settings, data, code or initial weights than `config`."""
    if not (folder / "config.json").is_file():
        return
    changed = changed_files(folder, config)
    if changed:
        raise UserError(
            f"'{folder}' holds a run of another experiment (changed: {'; '.join(map(str, changed))}); use another "
            "--output"
        )
    changes = describe_changes(read_config(folder), config)
    if changes:
        raise UserError(f"'{folder}' holds a run with {changes}; use another --output")


def describe_changes(old: TrainConfig, new: TrainConfig) -> str:
    """Return the settings that make two configurations different experiments, as text; empty if there are none."""
    changed = {key: values for key, values in differences(old, new).items() if key.split(".")[0] not in _FREE}
    changed.pop("model.trust_remote_code", None)  # a permission, which config.json never grants
    names = sorted(changed, key=lambda key: key.count("."))  # env or algorithm first: they determine nested settings
    texts = [f"{name} {changed[name][0]!r}, not {changed[name][1]!r}" for name in names[:_MOST_NAMED]]
    if len(names) > _MOST_NAMED:
        texts.append(f"and {len(names) - _MOST_NAMED} settings more")
    return "; ".join(texts)


def prepare_run(config: TrainConfig) -> TrainConfig:
    """Return the configuration to start a run with: resumed if its folder has a checkpoint, else as it is.

    A folder without a complete checkpoint is cleared first, except for its lock.

    Raises:
        UserError: another process holds the folder's lock, or `checkpoints/` is lost though steps are logged.
    """
    folder = Path(str(config.output))
    if (folder / "config.json").is_file() and checkpoint.complete(folder / "checkpoints"):
        with _locked(folder):
            return replace(config, resume=True)
    # TRL's runs and those without training have a checkpoint at their end only
    saves = not config.algorithm.startswith("trl:") and config.algorithm not in UNTRAINED
    if saves and not (folder / "checkpoints").is_dir() and read_metrics(folder):
        raise UserError(
            f"'{folder}' holds the steps of a run, and its checkpoints are missing or cannot be read; restore them, or "
            "delete the folder to run it again"
        )
    if folder.is_dir():
        with _locked(folder):
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "run.lock":
                    path.unlink()
    log_of(config).unlink(missing_ok=True)
    return config


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait some seconds for a process that was killed a moment ago to release it."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            lock = RunLock(folder).__enter__()
            break
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
