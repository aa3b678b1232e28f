"""What a person sees of a study under way: how many runs there are, how far they are, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.html.numbers import seconds
from rlalign.compare.study import Cell

_FEW = 3  # runs that have ended, before anything is said of the others

Kind = tuple[str, str]
"""Environment and algorithm: runs that take about as long as one another."""


def plan(cells: Sequence[Cell], done: int, jobs: int) -> str:
    """What is about to be run, in a line."""
    sizes = {
        "algorithm": len({c.algorithm for c in cells}),
        "environment": len({c.env for c in cells}),
        "seed": len({c.seed for c in cells}),
    }
    said = f"{count(len(cells), 'run')}: {' × '.join(count(n, what) for what, n in sizes.items())}"
    said += f"; {done} of them finished already" if done else ""
    return said + (f"; {jobs} at once" if len(cells) - done > 1 else "")


def time_left(
    spent: Mapping[Kind, Sequence[float]], waiting: Sequence[Kind], under_way: Sequence[tuple[Kind, float]], jobs: int
) -> float:
    """Seconds until the last run ends, if each takes the mean time of its kind, or of all where none of its kind ended.

    Args:
        spent: seconds of the runs that ended; at least one.
        waiting: runs that have not begun.
        under_way: runs that have, and how long ago.
        jobs: runs at once.
    """
    every = [s for ended in spent.values() for s in ended]

    def expected(kind: Kind) -> float:
        ended = spent.get(kind) or every
        return sum(ended) / len(ended)

    rest = [max(0.0, expected(kind) - so_far) for kind, so_far in under_way]
    work = sum(rest) + sum(map(expected, waiting))
    return max([work / jobs, *rest])


class Display:
    """One line for the study and one for each run under way; an estimate of the time left once a few have ended."""

    def __init__(self, console: Console, cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int) -> None:
        self._console, self._jobs = console, jobs
        self._waiting = [_kind(c) for c in waiting]
        self._begun: dict[str, tuple[Kind, float]] = {}
        self._spent: dict[Kind, list[float]] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("cells", total=len(cells), completed=len(cells) - len(waiting), left="")
        self._rows: dict[str, TaskID] = {}
        self._ended = 0
        self._speaks_at = {max(_FEW, jobs), len({_kind(c) for c in waiting})}  # the second: when one of each was seen

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begun(self, cell: Cell) -> None:
        """A run has been started."""
        self._waiting.remove(_kind(cell))
        self._begun[cell.name] = _kind(cell), time.monotonic()
        self._rows[cell.name] = self._progress.add_task(cell.name, total=cell.config.steps, left="")

    def look(self, under_way: Mapping[str, Cell]) -> None:
        """Draw how far the runs are."""
        for name, cell in under_way.items():
            self._progress.update(self._rows[name], completed=steps_of(cell.folder))
        if self._ended >= _FEW and self._spent:
            self._progress.update(self._all, left=self._left())

    def ended(self, name: str, *, whole: bool) -> None:
        """A run has ended; one that broke off says nothing of how long the others take."""
        kind, since = self._begun.pop(name)
        if whole:
            self._spent.setdefault(kind, []).append(time.monotonic() - since)
        self._ended += 1
        self._progress.advance(self._all)
        self._progress.remove_task(self._rows.pop(name))
        left = len(self._waiting) + len(self._begun)
        if left and self._spent and self._ended >= _FEW and self._ended in self._speaks_at:
            self._console.print(f"{self._ended} have ended, {left} are left: {self._left()}", highlight=False)

    def _left(self) -> str:
        now = time.monotonic()
        under_way = [(kind, now - since) for kind, since in self._begun.values()]
        return f"about {seconds(time_left(self._spent, self._waiting, under_way, self._jobs))}"


def steps_of(folder: Path) -> int:
    """Steps that a run has logged so far."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _kind(cell: Cell) -> Kind:
    return cell.env, cell.algorithm
