"""One command of the command line in this process, and the faults of its outcome.

A fault is: an exception that escapes or a printed traceback, an unknown exit status, a failure without a message or
with more than one line, a control sequence in the output, a success without its work, a usage error that writes a file,
and a command that does not end.
"""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlalign import cli
from rlalign.escaping.terminal import visible

# Errors of a run that had begun, rather than refusals: a reward raised or returned no numbers at its first call, or a
# task that was drawn has a long prompt.
_ENDED = re.compile(r"--resume|rlalign: reward '[^']*'(:| failed)|(train|validation|test) task \d+:")
STATUSES = (0, 1, 2, 130, 143)


class Hang(BaseException):
    """A command took longer than its limit."""


@dataclass
class Outcome:
    """What one command did.

    Attributes:
        words: the command line without the program.
        status: exit status; None if an exception escaped.
        stdout, stderr: what it printed.
        escaped: the traceback of an exception that escaped, or nothing.
        written: files that are new or changed, relative to the folder.
        seconds: duration.
        faults: what is wrong with it.
    """

    words: list[str]
    status: int | None
    stdout: str
    stderr: str
    escaped: str
    written: list[str]
    seconds: float
    faults: list[str] = field(default_factory=list)


def run_command(words: Sequence[str], folder: Path, limit_s: float = 60.0) -> Outcome:
    """Run a command in a folder and return its outcome, with the faults that need no knowledge of the command.

    Args:
        words: the command line without the program.
        folder: working folder.
        limit_s: seconds after which the command hangs.
    """
    before = _times(folder)
    escaped = ""
    status: int | None = None
    start = time.monotonic()
    with _streams() as (stdout, stderr), contextlib.chdir(folder), _limit(limit_s):
        try:
            status = cli.main(list(words))
        except SystemExit as error:  # of the parser of arguments
            status = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        except Hang:
            escaped = f"hangs: more than {limit_s:g} s"
        except BaseException:
            escaped = traceback.format_exc()
    seconds = time.monotonic() - start
    after = _times(folder)
    written = sorted(path for path, at in after.items() if before.get(path) != at)
    outcome = Outcome(list(words), status, stdout(), stderr(), escaped, written, seconds)
    outcome.faults = list(_faults(outcome))
    return outcome


def _faults(outcome: Outcome) -> Iterator[str]:
    if outcome.escaped:
        yield outcome.escaped.strip().splitlines()[-1]
        return
    printed = outcome.stdout + outcome.stderr
    if "Traceback (most recent call last)" in printed:
        yield "prints a traceback"
    if visible(printed) != printed:
        yield "prints a control character"
    if outcome.status not in STATUSES:
        yield f"ends with status {outcome.status}"
    if outcome.status and not outcome.stderr.strip() and not outcome.stdout.strip():
        yield "fails without a word"
    errors = [text for text in outcome.stderr.splitlines() if text.startswith("rlalign: ")]
    after = outcome.stderr.partition("rlalign: ")[2]
    if outcome.status == 2 and errors and len(after.strip().splitlines()) > 1:
        yield "prints an error of several lines"
    # The pass over the data keeps its result, also if the records that it leaves are too few.
    kept = [path for path in outcome.written if not path.endswith((".pyc", "run.lock", "data.json"))]
    ended = _ENDED.search(outcome.stderr)
    if outcome.status == 2 and kept and not ended:
        yield f"refuses the arguments and writes {kept[0]}"


@contextlib.contextmanager
def _streams() -> Iterator[tuple[Callable[[], str], Callable[[], str]]]:
    """Replace stdout and stderr; yield functions that return what was printed."""
    buffers = io.BytesIO(), io.BytesIO()
    old = sys.stdout, sys.stderr
    formatwarning = warnings.formatwarning
    streams = [io.TextIOWrapper(buffer, encoding="utf-8", errors="strict", write_through=True) for buffer in buffers]
    sys.stdout, sys.stderr = streams
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            yield (
                lambda: buffers[0].getvalue().decode(errors="backslashreplace"),
                lambda: buffers[1].getvalue().decode(errors="backslashreplace"),
            )
    finally:
        for stream in streams:
            with contextlib.suppress(ValueError):
                stream.detach()
        sys.stdout, sys.stderr = old
        warnings.formatwarning = formatwarning


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise Hang in the main thread after some seconds."""

    def stop(*_: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again each second, if code caught the exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _times(folder: Path) -> dict[str, int]:
    """Return path -> time of the last change of each file."""
    times = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                times[path.relative_to(folder).as_posix()] = path.stat().st_mtime_ns
    return times


def metrics_rows(folder: Path) -> int:
    """Return the number of steps in a run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
