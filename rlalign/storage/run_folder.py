"""The run folder: its configuration file and its lock.

config.json                 the configuration, with the number of its format
run.mark                    a keyed digest of config.json and of code below the folder: this user's programs wrote them
metrics.jsonl               one line per step: rollout/ reward/ train/ eval/ alarm/ time/
samples.jsonl               some completions of each step
checkpoints/step-N/         the state from which a run resumes, with its manifest
best/step-N/                the weights of the best validation, with evaluation.patience
faults/step-N/              the batches of skipped updates
policy/                     the trained policy; transformers loads it without this library
report/                     reward.png, evaluation.json, samples before and after, alarms.json when alarms were raised
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_json, to_json
from rlalign.errors import UserError
from rlalign.storage.atomic import write_atomic
from rlalign.storage.run_mark import mark_run

_RESTORE = "if the file is damaged, restore it from a copy, or train again with rlalign train"


def read_config(folder: Path, *, trust_remote_code: bool = False) -> TrainConfig:
    """Return the configuration of a run folder, whichever format its config.json has.

    What a user must say himself does not count if a file says it: permission to run a model's code, to accept changes,
    or to trust the folder.

    Args:
        folder: the run folder.
        trust_remote_code: keep the setting `model.trust_remote_code` of the file.

    Raises:
        UserError: names the file when it is not valid.
    """
    path = folder / "config.json"
    try:
        config = from_json(json.loads(path.read_text(encoding="utf-8")))
        model = replace(config.model, trust_remote_code=config.model.trust_remote_code and trust_remote_code)
        return replace(config, model=model, resume=False, allow_change=False, trust_run=False)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise UserError(f"'{path}' is not valid JSON ({error}); {_RESTORE}") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); check the path") from error
    except UserError as error:
        raise UserError(f"'{path}': {str(error).rstrip('.')}; {_RESTORE}") from error


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write config.json atomically, and its mark (see `rlalign.storage.run_mark`)."""
    from rlalign.storage.identity import code_files  # imports torch, which readers of a folder do not need

    write_atomic(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")
    mark_run(folder, code_files(config).values())


class RunLock:
    """Context manager that gives one process a run folder.

    The lock is advisory (flock): the kernel drops it when the process dies, however it dies. The folder is created on
    entry and removed on exit when nothing was written into it.

    Raises:
        UserError: when the folder cannot be created or another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"'{folder}' cannot be created ({error.strerror}); use another --output") from error
        self.path = folder / "run.lock"

    def __enter__(self) -> RunLock:
        try:
            self._file = self.path.open("a+")
        except OSError as error:
            raise UserError(f"'{self.path}' cannot be written ({error.strerror}); use another --output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"'{self.path.parent}' is in use by {owner} (lock {self.path}); wait for it, or use another --output"
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a reward in this process may have closed the descriptor
            self._file.truncate(0)
        if [path.name for path in self.path.parent.iterdir()] == [self.path.name]:  # the run wrote nothing
            self.path.unlink()
            self.path.parent.rmdir()
        with suppress(OSError):
            self._file.close()


def delete_results(folder: Path) -> None:
    """Delete what an interrupted run has left in its folder, before the run starts again. The settings stay."""
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoints", "policy", "report"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
