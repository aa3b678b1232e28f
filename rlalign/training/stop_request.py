"""A polite stop: the first SIGTERM or SIGINT asks, the run saves and leaves; the second does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

STOPPED = (130, 143)
"""Exit statuses of a run that was asked to stop, by SIGINT and by SIGTERM."""


class StopRequest:
    """Context manager that turns SIGTERM and SIGINT into a flag.

    Outside the main thread (a notebook's worker, a server) Python cannot take signals: the flag then stays false unless
    `request` is called.
    """

    impatient = True
    """Whether a second signal interrupts; false in processes that are not asked by a person alone."""

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
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us before
        self._old.clear()

    def __bool__(self) -> bool:
        return self.signal is not None

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask the run to stop, as the signal would."""
        self.signal = number

    @property
    def exit_status(self) -> int:
        """128 + signal: 143 for SIGTERM, 130 for SIGINT; 0 when nobody asked."""
        return 128 + self.signal if self.signal else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and self.impatient:
            raise KeyboardInterrupt
        self.signal = number
