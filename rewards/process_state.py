"""State of this process that a function called in it can break: open descriptors, standard streams, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
from typing import Any

_STANDARD = (0, 1, 2)
_STREAMS = ("stdout", "stderr")


class Interrupts:
    """Context manager that records the SIGINT signals of a call; their handler runs as before.

    A KeyboardInterrupt without a recorded signal was raised by the called code. In another thread than the main one no
    handler runs, so each KeyboardInterrupt there is the code's own.

    Attributes:
        received: whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.received = False
        self._handler: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None and signal.getsignal(signal.SIGINT) == self._record:
            signal.signal(signal.SIGINT, self._handler)

    def _record(self, number: int, frame: Any) -> None:
        self.received = True
        self._handler(number, frame)


class Descriptors:
    """Copies of the standard descriptors, which show after a call what it closed, and restore it.

    Attributes:
        lost: whether descriptors were closed that cannot be restored, such as those of the run's files.
    """

    def __init__(self) -> None:
        self.lost = False
        self._copies: dict[int, int] = {}
        for number in _STANDARD:
            with contextlib.suppress(OSError):  # closed before the call, as in a daemon
                self._copies[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        self._files = {copy: _file(copy) for copy in self._copies.values()}
        self._streams = {name: getattr(sys, name) for name in _STREAMS if not _is_closed(getattr(sys, name))}

    def restore(self) -> str:
        """Open again what the call closed, and return what it was; empty if nothing.

        Only the standard descriptors can be opened again. The copies stand for all others: a call that closes every
        descriptor closes them too.
        """
        closed = []
        for number, copy in self._copies.items():
            intact = _file(copy) == self._files[copy]
            if not intact:
                self.lost = True
                closed.append(copy)
            if _file(number) is None:
                closed.append(number)
                with contextlib.suppress(OSError):
                    os.dup2(copy if intact else os.open(os.devnull, os.O_RDWR), number)
            if intact:
                os.close(copy)
        problems = [f"file {'descriptors' if len(closed) > 1 else 'descriptor'} {_listed(closed)}"] if closed else []
        for name, stream in self._streams.items():
            if _is_closed(stream):
                problems.append(f"sys.{name}")
                if getattr(sys, name) is stream:
                    number = _STANDARD[_STREAMS.index(name) + 1]
                    setattr(sys, name, os.fdopen(number, "w", buffering=1, errors="backslashreplace", closefd=False))
        return " and ".join(problems)


def _file(number: int) -> tuple[int, int] | None:
    """Return device and inode of an open descriptor; None if it is closed."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_closed(stream: Any) -> bool:
    return bool(getattr(stream, "closed", stream is None))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))
