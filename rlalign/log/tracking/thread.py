"""A tracker on a thread of its own: slow, unreachable or broken, it loses its own lines and does not affect the run."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CLOSE_TIMEOUT = 30.0  # seconds that a tracker gets to finish: a short run ends before its package is imported
QUEUE_SIZE = 10_000  # calls that a slow tracker can be behind before it loses some


class TrackerThread:
    """A tracker that is built, opened, called and closed on its thread; of its first failure it warns, once.

    Args:
        name: of the tracker, for warnings.
        build: returns the tracker (see `rlalign.log.tracking.protocol.RunTracker`).
        folder: the run folder.
        config: the configuration as JSON values.
    """

    def __init__(self, name: str, build: Callable[[], Any], folder: Path, config: Mapping[str, Any]) -> None:
        self.name = name
        self._build = build
        self._open_arguments = (folder, config)
        self._warned = False
        self._ended = False
        # None tells the thread to stop
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._thread = threading.Thread(target=self._work, name=f"rlalign-{name}", daemon=True)
        self._thread.start()

    def put(self, method: str, *arguments: Any) -> None:
        """Queue a call of a method, which the tracker may lack.

        Args:
            method: scalars, samples, picture or card.
            arguments: of the method; nobody else changes them.
        """
        if self._ended:
            return
        try:
            self._queue.put_nowait((method, arguments))
        except queue.Full:
            self._warn("is too slow and loses lines")

    def close(self) -> None:
        """Let the tracker finish, for 30 seconds at most."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._warn("is too slow and loses lines")
            return
        self._thread.join(timeout=CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self._warn(f"did not finish in {CLOSE_TIMEOUT:g} s and may lose lines")

    def _work(self) -> None:
        try:
            tracker = self._build()
            tracker.open(*self._open_arguments)
            while (item := self._queue.get()) is not None:
                _call(tracker, item[0], *item[1])
            _call(tracker, "close")
        except BaseException as error:  # also sys.exit of a tracker, which would end the thread without a word
            self._warn(f"stopped ({type(error).__name__}: {error})")
        self._ended = True

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.name} {problem}; metrics.jsonl stays complete", stacklevel=2)


def _call(tracker: Any, method: str, *arguments: Any) -> None:
    function = getattr(tracker, method, None)
    if callable(function):
        function(*arguments)
