"""The interface of workers that execute runs, and the execution of one run in the current process."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlalign.config.schema import TrainConfig


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        name: name of the run.
        status: exit status; 0 for success.
        reason: why it failed; empty for success.
    """

    name: str
    status: int
    reason: str = ""


class Workers(Protocol):
    """Executor of runs: local processes or a Ray cluster."""

    jobs: int
    """Runs at once."""

    def start(self, name: str, config: TrainConfig) -> None:
        """Start a run."""

    def wait(self, seconds: float) -> list[Ended]:
        """Return the runs that have ended; wait at most `seconds` for the first."""

    def stop(self, name: str) -> None:
        """Ask a run to save and leave."""

    def close(self) -> None:
        """Ask all runs to stop and wait until they have."""


def log_of(config: TrainConfig) -> Path:
    """Return the file for the output of a run, which stands beside its folder."""
    return Path(f"{config.output}.log")


def run_here(config: TrainConfig) -> int:
    """Train in the current process on one thread; print the traceback of an error. Returns the exit status."""
    import torch

    from rlalign.api import train_config
    from rlalign.training.stop_request import StopRequest

    # Ctrl-C reaches a study and its runs alike, and the study forwards it: the second signal is not a second request.
    StopRequest.impatient = False

    torch.set_num_threads(1)
    try:
        return train_config(config, quiet=True).exit_status
    except BaseException:
        traceback.print_exc()
        return 1


def reason_of(status: int, log: Path) -> str:
    """Return why a run failed: the signal that killed it, or the last line of its log; empty for status 0.

    Args:
        status: exit status; negative: killed by that signal.
        log: file with the output of the run; it need not exist.
    """
    if status == 0:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
    return next((line for line in reversed(lines) if line), f"exit status {status}")
