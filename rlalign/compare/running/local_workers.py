"""Execution of runs in separate single-threaded processes on this machine, so that a crash stops only one run.

Processes are forked from a server process that has imported the libraries and executed nothing else. A run therefore
starts in a fraction of a second, and always from the same state.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rlalign.compare.running.workers import Ended, log_of, reason_of, run_here
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_dict, to_dict

# Everything large that a run imports: a module that is missing here is imported again by every run.
_PRELOADED = [
    "rlalign.training.experiment",
    "rlalign.policies.gru",
    "rlalign.policies.sampling.decode_loop",  # imports peft, and with it torch._dynamo and transformers
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
]
_NOT_BEGUN = (
    "its process ended before the run began; in a script, start the study under `if __name__ == '__main__':`, because "
    "each new process imports the script"
)
_JOIN_TIMEOUT = 1.0  # seconds for a process that has sent its status to exit


class LocalWorkers:
    """Processes on this machine.

    Args:
        jobs: runs at once.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._running: dict[str, tuple[Any, Connection, Path]] = {}

    def start(self, name: str, config: TrainConfig) -> None:
        """Start a run; its output is appended to a file beside its folder."""
        log = log_of(config)
        log.parent.mkdir(parents=True, exist_ok=True)
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(to_dict(config), str(log), sender), name=name)
        process.start()
        sender.close()  # the pipe must close when the run's process dies, so only that process may hold this end
        self._running[name] = (process, receiver, log)

    def wait(self, seconds: float) -> list[Ended]:
        """Return the runs that have ended; wait at most `seconds` for the first."""
        ready = wait([receiver for _, receiver, _ in self._running.values()], timeout=seconds)
        ended = []
        for name, (process, receiver, log) in list(self._running.items()):
            if receiver in ready:
                del self._running[name]
                status = _receive_status(process, receiver)
                begun = log.is_file()  # a run opens its log first
                ended.append(Ended(name, status, reason_of(status, log) if begun or not status else _NOT_BEGUN))
        return ended

    def stop(self, name: str) -> None:
        """Ask a run to save and leave."""
        if name in self._running:
            self._running[name][0].terminate()

    def close(self) -> None:
        """Ask all runs to stop and wait until they have; a KeyboardInterrupt kills them."""
        for name in self._running:
            self.stop(name)
        try:
            while self._running:
                self.wait(1.0)
        except KeyboardInterrupt:
            for process, _, _ in self._running.values():
                process.kill()
            raise


def _receive_status(process: Any, receiver: Connection) -> int:
    """Return the exit status that a run sent, or the one of its process if it died without sending any.

    The pipe closes when the last process that holds its other end exits. The server that processes are forked from is
    not asked for their end: it may be gone, or may report late.
    """
    with receiver:
        try:
            status: int = receiver.recv()
        except EOFError:
            process.join(_JOIN_TIMEOUT)
            return process.exitcode or 1
    process.join(_JOIN_TIMEOUT)
    return status


def _work(config: Mapping[str, Any], log: str, sender: Connection) -> None:
    """Execute one run in a new process: redirect its output, train, send the exit status."""
    with open(log, "ab", buffering=0) as file:
        # Redirect the file descriptors and not sys.stdout, so that output of C code is kept as well.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    status = run_here(from_dict(TrainConfig, config))
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # the study's process may be gone
        sender.send(status)
    os._exit(status)


def _stop_with_parent() -> None:
    """Make this run save and leave when the study's process dies without stopping it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
