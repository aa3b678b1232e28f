"""Sides of a comparison, each in a process of its own, where it runs as its users run it; one works at a time.

In one process they would share settings that either makes: our learner asks glibc to keep freed memory, for instance.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from machine import clock


class Turns:
    """What a side sees: a turn is asked for, done and reported."""

    def __init__(self, pipe: Connection, device: str, kind: str) -> None:
        self._pipe, self._clock = pipe, (device, kind)

    def begin(self) -> Any:
        """Wait for a turn, start the clock, and return what was asked."""
        asked = self._pipe.recv()
        self._began = clock(*self._clock)
        return asked

    def end(self, result: Any = None) -> None:
        """Stop the clock and report."""
        self._pipe.send((clock(*self._clock) - self._began, result))

    def serve(self, work: Callable[[Any], Any]) -> None:
        """Do `work` with what is asked, turn by turn, until the process is stopped."""
        while True:
            self.end(work(self.begin()))


Ask = Callable[..., tuple[float, Any]]
"""Gives a side its turn with what is asked, None by default; seconds, and what the side says."""


@contextmanager
def side(run: Callable[..., None], *args: Any, device: str, kind: str) -> Iterator[Ask]:
    """Run `run(turns, *args)` in a process of its own. Raises SystemExit with its traceback where it fails."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there, run, args, device, kind), daemon=True)
    process.start()
    there.close()

    def ask(what: Any = None) -> tuple[float, Any]:
        here.send(what)
        answer = here.recv()
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer  # type: ignore[no-any-return]  # what came through the pipe

    try:
        yield ask
    finally:
        process.kill()
        process.join()


def _run(pipe: Connection, run: Callable[..., None], args: tuple[Any, ...], device: str, kind: str) -> None:
    try:
        run(Turns(pipe, device, kind), *args)
    except Exception:
        pipe.send(traceback.format_exc())
