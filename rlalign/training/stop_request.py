"""Requests to stop a run: the first SIGTERM or SIGINT lets it save and exit, the second one interrupts."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

STOPPED = (130, 143)
"""Exit statuses of a run stopped by SIGINT and by SIGTERM."""


class StopRequest:
    """Context manager that turns SIGTERM and SIGINT into a flag.

    Outside the main thread (a worker thread of a notebook or server) Python cannot handle signals: the flag then stays
    false unless `request` is called.
    """

    impatient = True
    """Whether a second signal interrupts. False in worker processes, which also get signals meant for their parent."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
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
        """128 + signal: 143 for SIGTERM, 130 for SIGINT; 0 without a request."""
        return 128 + self.signal if self.signal else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and self.impatient:
            raise KeyboardInterrupt
        self.signal = number
