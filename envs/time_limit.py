"""A time limit for a call in the main thread.

SIGALRM raises `TimeLimitReached` inside the call. That ends Python code, sleeps, locks, input and output, and regular
expressions. It cannot end a call into native code that neither returns nor checks for signals, and it needs the main
thread: elsewhere the call runs without a limit. Processes that the call started keep running.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_AGAIN_S = 1.0  # the exception is raised again after this time, in case a bare `except:` caught it
_AFTER_STOP_S = 5.0


class TimeLimitReached(BaseException):
    """Raised inside a call whose time is over. Not an Exception, so that `except Exception` does not catch it.

    Args:
        limit: the time that was over, for messages.
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class _Limit:
    """The limit of the call in progress; `armed` is false once the call has returned."""

    def __init__(self, limit_s: float) -> None:
        self.armed = True
        self.limit = f"{limit_s:g} s"

    def reached(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            raise TimeLimitReached(self.limit)


_running: list[_Limit] = []  # the innermost call is last


def call_within(limit_s: float | None, call: Callable[[], T]) -> T:
    """Return the result of a call that may take `limit_s` seconds; None, or outside the main thread: no limit.

    Raises:
        TimeLimitReached: the call took longer.
    """
    if limit_s is None or threading.current_thread() is not threading.main_thread():
        return call()
    limit = _Limit(limit_s)
    start = time.monotonic()
    old_handler = signal.signal(signal.SIGALRM, limit.reached)
    old_timer = signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
    _running.append(limit)
    try:
        try:
            return call()
        finally:
            limit.armed = False
    finally:  # a second block, because the signal may arrive just before the line above
        limit.armed = False
        _running.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
        if old_timer[0]:  # another user of the timer, such as an outer limit
            left = old_timer[0] - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), old_timer[1])


def shorten_running_limit() -> None:
    """Let a call with a limit take five more seconds at most. For handlers of signals that stop a run."""
    if _running and _running[-1].armed and signal.getitimer(signal.ITIMER_REAL)[0] > _AFTER_STOP_S:
        _running[-1].limit = f"{_AFTER_STOP_S:g} s of the signal to stop"
        signal.setitimer(signal.ITIMER_REAL, _AFTER_STOP_S, _AGAIN_S)
