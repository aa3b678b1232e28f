"""Requests to stop a run: the first signal lets it finish its update, save and exit; the second one interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from rlalign.envs.time_limit import shorten_running_limit

STOPPED = (129, 130, 143)
"""Exit statuses of a run stopped by SIGHUP, by SIGINT and by SIGTERM."""


class StopRequest:
    """Context manager that turns SIGTERM, SIGINT and SIGHUP (the terminal is lost) into a flag.

    Outside the main thread (a worker thread of a notebook or server) Python cannot handle signals: the flag then stays
    false unless `request` is called.
    """

    impatient = True
    """Whether a second signal interrupts. False in worker processes, which also get signals meant for their parent."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, object] = {}
        self._deferring = False
        self._deferred = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup: the run outlives its terminal
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # a handler that signal.signal returned
        self._old.clear()

    def __bool__(self) -> bool:
        return self.signal is not None

    def request(self, number: int = signal.SIGTERM) -> None:
        """Set the flag, as the signal would."""
        self.signal = number

    @property
    def exit_status(self) -> int:
        """128 + signal: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP; 0 without a request."""
        return 128 + self.signal if self.signal else 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold an interruption back until the block has ended, so that it does all of its work or none."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self._deferred:
                self._deferred = False
                raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None or not self.impatient:
            self.signal = number
            shorten_running_limit()  # an environment's reply that hangs must not hold up the stop
        elif self._deferring:
            self._deferred = True
        else:
            raise KeyboardInterrupt
