"""The sides of a comparison, each in a process of its own, which take turns.

In one process they would share global settings: our learner, for example, makes glibc keep freed memory. In processes
of their own they run as their users run them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from machine import clock

TURN = 1.0
"""Least duration of a turn in seconds: short runs follow each other, as in real training."""


class Turns:
    """The connection of a side: it receives requests for turns and reports their times."""

    def __init__(self, pipe: Connection, device: str, kind: str) -> None:
        self._pipe = pipe
        self._clock = (device, kind)

    def begin(self) -> Any:
        """Wait for a request, start the clock, and return the request."""
        request = self._pipe.recv()
        self._start = clock(*self._clock)
        return request

    def end(self, result: Any = None, runs: int = 1) -> None:
        """Stop the clock and report the seconds per run."""
        self._pipe.send(((clock(*self._clock) - self._start) / runs, result))

    def serve(self, work: Callable[[Any], Any]) -> None:
        """Call `work` with each request until the process is stopped.

        A turn repeats the call until `TURN` seconds have passed. It reports the mean seconds and all results.
        """
        while True:
            request = self.begin()
            results: list[Any] = []
            while not results or clock(*self._clock) - self._start < TURN:
                results.append(work(request))
            self.end(results, len(results))


Ask = Callable[..., tuple[float, Any]]
"""Function that sends a request to a side (None by default) and returns its seconds and its result."""


@contextmanager
def side(run: Callable[..., None], *args: Any, device: str, kind: str) -> Iterator[Ask]:
    """Run `run(turns, *args)` in a process of its own. Raises SystemExit with the process's traceback if it fails."""
    context = get_context("spawn")
    own_end, other_end = context.Pipe()
    process = context.Process(target=_run, args=(other_end, run, args, device, kind), daemon=True)
    process.start()
    other_end.close()

    def ask(request: Any = None) -> tuple[float, Any]:
        with suppress(OSError):  # the process has ended; its last message can still be read
            own_end.send(request)
        try:
            answer = own_end.recv()
        except (EOFError, OSError):
            process.join()
            raise SystemExit(f"a side ended with exit code {process.exitcode}") from None
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer  # type: ignore[no-any-return]  # of the pipe

    try:
        yield ask
    finally:
        process.kill()
        process.join()


def _run(pipe: Connection, run: Callable[..., None], args: tuple[Any, ...], device: str, kind: str) -> None:
    try:
        run(Turns(pipe, device, kind), *args)
    except BaseException:
        pipe.send(traceback.format_exc())
