"""Runs in processes of their own on this machine: one thread each, a crash of one is nobody else's.

Processes are forked from a server that has imported everything and done nothing, so that a run starts in a fraction
of a second and from the same clean state each time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_dict, to_dict

_PRELOADED = ["rlalign.training.experiment", "rlalign.policies.gru", "matplotlib.figure", "scipy.stats"]
_PATIENCE = 1.0  # seconds for a process that has said its last word to be gone
_GIB = 2**30
_MEMORY = {True: 0.75 * _GIB, False: 6 * _GIB}  # of a run from scratch, of one with a pretrained policy


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its name, its exit status (0: done), and what it said last if it failed."""

    name: str
    status: int
    reason: str = ""


class Workers(Protocol):
    """Where runs are sent: processes here, or a cluster."""

    jobs: int
    """How many at once."""

    def start(self, name: str, config: TrainConfig) -> None:
        """Begin a run."""

    def wait(self, seconds: float) -> list[Ended]:
        """Runs that have ended, waiting for one at most so long."""

    def stop(self, name: str) -> None:
        """Ask a run to save and leave."""

    def close(self) -> None:
        """Ask all to stop and wait until they have."""


class LocalWorkers:
    """Processes on this machine."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._running: dict[str, tuple[Any, Connection, Path]] = {}

    def start(self, name: str, config: TrainConfig) -> None:
        """Begin a run; what it prints goes to a file beside its folder."""
        log = log_of(config)
        log.parent.mkdir(parents=True, exist_ok=True)
        line, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(to_dict(config), str(log), theirs), name=name)
        process.start()
        theirs.close()
        self._running[name] = process, line, log

    def wait(self, seconds: float) -> list[Ended]:
        """Runs that have ended, waiting for one at most so long."""
        ready = wait([line for _, line, _ in self._running.values()], timeout=seconds)
        ended = []
        for name, (process, line, log) in list(self._running.items()):
            if line in ready:
                del self._running[name]
                status = _status(process, line)
                ended.append(Ended(name, status, reason_of(status, log)))
        return ended

    def stop(self, name: str) -> None:
        """Ask a run to save and leave."""
        if name in self._running:
            self._running[name][0].terminate()

    def close(self) -> None:
        """Ask all to stop and wait until they have; a KeyboardInterrupt does not wait."""
        for name in self._running:
            self.stop(name)
        try:
            while self._running:
                self.wait(1.0)
        except KeyboardInterrupt:
            for process, _, _ in self._running.values():
                process.kill()
            raise


def _status(process: Any, line: Connection) -> int:
    """What a run said when it left, or how it died without a word.

    The server that processes are forked from is not asked, as it may be gone, or slow to notice: a line closes with the
    last process that holds its other end.
    """
    with line:
        try:
            status: int = line.recv()
        except EOFError:
            process.join(_PATIENCE)
            return process.exitcode or 1
    process.join(_PATIENCE)
    return status


def log_of(config: TrainConfig) -> Path:
    """Where a run's output goes: beside its folder."""
    return Path(f"{config.output}.log")


def capacity(scratch: bool) -> int:
    """How many runs this machine holds at once: a core and the memory for each; one on a machine with a GPU."""
    import torch

    if torch.cuda.is_available():
        return 1
    return int(max(1, min(_cores(), _free_memory() // _MEMORY[scratch])))


def _cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Cores that may be used: those this process may run on, or the container's share of them where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share, _, period = quota.read_text().partition(" ") if quota.is_file() else ("max", "", "")
    return cores if share == "max" else min(cores, int(share) / int(period))


def _free_memory() -> float:
    """Bytes that may be used, as far as Linux says; infinite elsewhere."""
    free = math.inf
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, float(most) - float(used.read_text()))
    return free


def run_here(config: TrainConfig) -> int:
    """Train in this process, on one thread; prints the traceback of an error. Returns the exit status."""
    import torch

    from rlalign.api import train_config
    from rlalign.training.stop_request import StopRequest

    StopRequest.impatient = False  # Ctrl-C reaches a study and its runs alike, and the study asks them too

    torch.set_num_threads(1)
    try:
        return train_config(config, quiet=True).exit_status
    except BaseException:
        traceback.print_exc()
        return 1


def _work(config: Mapping[str, Any], log: str, line: Connection) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    threading.Thread(target=_follow_parent, daemon=True).start()
    status = run_here(from_dict(TrainConfig, config))
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # nobody is there to hear it
        line.send(status)
    os._exit(status)


def _follow_parent() -> None:
    """When the study's process dies without a word, its runs save and leave instead of going on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def reason_of(status: int, log: Path) -> str:
    """Why a run failed: the signal that killed it, or the last line that it printed; empty for one that did not."""
    if status == 0:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
    return next((line for line in reversed(lines) if line), f"exit status {status}")
