"""Progress of a running study in the terminal: number of runs, steps of each, and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rlalign.compare.analysis.verdict import count
from rlalign.compare.study import Cell
from rlalign.escaping.console import PlainConsole
from rlalign.escaping.terminal import visible
from rlalign.html.numbers import seconds

_FEWEST_ENDED = 3  # runs that must have ended before an estimate of the time left is shown

Kind = tuple[str, str]
"""(environment, algorithm). Runs of one kind take about the same time."""


def plan(cells: Sequence[Cell], finished: int, jobs: int) -> str:
    """Return one line about the runs of a study: how many, how many are finished, how many run at once."""
    sizes = {
        "algorithm": len({cell.algorithm for cell in cells}),
        "environment": len({cell.env for cell in cells}),
        "seed": len({cell.seed for cell in cells}),
    }
    text = f"{count(len(cells), 'run')}: {' × '.join(count(size, name) for name, size in sizes.items())}"
    if finished:
        text += f"; {finished} of them finished already"
    if len(cells) - finished > 1:
        text += f"; {jobs} at once"
    return text


def time_left(
    spent: Mapping[Kind, Sequence[float]], waiting: Sequence[Kind], running: Sequence[tuple[Kind, float]], jobs: int
) -> float:
    """Estimate the seconds until the last run ends.

    Each run is assumed to take the mean time of its kind, or of all ended runs if none of its kind has ended.

    Args:
        spent: kind -> seconds of the runs that ended; at least one run.
        waiting: kinds of the runs that have not started.
        running: kind and elapsed seconds of the running ones.
        jobs: runs at once.
    """
    all_spent = [duration for durations in spent.values() for duration in durations]

    def expected(kind: Kind) -> float:
        durations = spent.get(kind) or all_spent
        return sum(durations) / len(durations)

    remaining = [max(0.0, expected(kind) - elapsed) for kind, elapsed in running]
    work = sum(remaining) + sum(map(expected, waiting))
    # No schedule ends before the work divided by the jobs, nor before the longest running run.
    return max([work / jobs, *remaining])


class ProgressDisplay:
    """One line for the study and one per running cell; an estimate of the time left once a few cells have ended.

    Args:
        console: the terminal; outside a terminal only the estimate is printed, once or twice.
        cells: all cells of the study.
        waiting: those that are not finished.
        jobs: runs at once.
    """

    def __init__(self, console: PlainConsole, cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int) -> None:
        self._console = console
        self._jobs = jobs
        self._waiting = [_kind(cell) for cell in waiting]
        self._started: dict[str, tuple[Kind, float]] = {}
        self._spent: dict[Kind, list[float]] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._total = self._progress.add_task("cells", total=len(cells), completed=len(cells) - len(waiting), left="")
        self._rows: dict[str, TaskID] = {}
        self._ended = 0
        # Print the estimate twice: when a round of jobs has ended, and when one run of each kind may have.
        self._printed_at = {max(_FEWEST_ENDED, jobs), len({_kind(cell) for cell in waiting})}

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def add(self, cell: Cell) -> None:
        """Add a cell whose run has started."""
        self._waiting.remove(_kind(cell))
        self._started[cell.name] = (_kind(cell), time.monotonic())
        self._rows[cell.name] = self._progress.add_task(visible(cell.name), total=cell.config.steps, left="")

    def refresh(self, running: Mapping[str, Cell]) -> None:
        """Draw the steps of the running cells."""
        for name, cell in running.items():
            self._progress.update(self._rows[name], completed=steps_of(cell.folder))
        if self._ended >= _FEWEST_ENDED and self._spent:
            self._progress.update(self._total, left=self._estimate())

    def remove(self, name: str, *, complete: bool) -> None:
        """Remove a cell whose run has ended; only the time of a complete run enters the estimate."""
        kind, start = self._started.pop(name)
        if complete:
            self._spent.setdefault(kind, []).append(time.monotonic() - start)
        self._ended += 1
        self._progress.advance(self._total)
        self._progress.remove_task(self._rows.pop(name))
        left = len(self._waiting) + len(self._started)
        if left and self._spent and self._ended >= _FEWEST_ENDED and self._ended in self._printed_at:
            self._console.print(f"{self._ended} have ended, {left} are left: {self._estimate()}")

    def _estimate(self) -> str:
        now = time.monotonic()
        running = [(kind, now - start) for kind, start in self._started.values()]
        return f"about {seconds(time_left(self._spent, self._waiting, running, self._jobs))}"


def steps_of(folder: Path) -> int:
    """Return the number of steps that a run has logged so far."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _kind(cell: Cell) -> Kind:
    return cell.env, cell.algorithm
