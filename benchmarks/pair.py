"""Sides of a comparison, each in a process of its own, where it runs as its users run it; they take turns.

In one process they would share settings that either makes: our learner asks glibc to keep freed memory, for instance.
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
"""Seconds that a turn takes at least: short runs come one after the other, as they do in a user's."""


class Turns:
    """What a side sees: a turn is asked for, done and reported."""

    def __init__(self, pipe: Connection, device: str, kind: str) -> None:
        self._pipe, self._clock = pipe, (device, kind)

    def begin(self) -> Any:
        """Wait for a turn, start the clock, and return what was asked."""
        asked = self._pipe.recv()
        self._began = clock(*self._clock)
        return asked

    def end(self, result: Any = None, runs: int = 1) -> None:
        """Stop the clock and report the seconds of one of the runs."""
        self._pipe.send(((clock(*self._clock) - self._began) / runs, result))

    def serve(self, work: Callable[[Any], Any]) -> None:
        """Do `work` with what is asked, turn by turn, until the process is stopped; a turn is as many runs as take
        `TURN` seconds, and reports their mean and what each gave."""
        while True:
            asked, given = self.begin(), list[Any]()
            while not given or clock(*self._clock) - self._began < TURN:
                given.append(work(asked))
            self.end(given, len(given))


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
        with suppress(OSError):  # it has ended; what it said last can still be read
            here.send(what)
        try:
            answer = here.recv()
        except (EOFError, OSError):
            process.join()
            raise SystemExit(f"a side ended with exit code {process.exitcode}") from None
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
    except BaseException:
        pipe.send(traceback.format_exc())
