"""Execution of all cells of a study, several at once; finished cells are kept and unfinished ones are resumed."""

from __future__ import annotations

from collections.abc import Sequence

from rlalign.compare.records.run_records import finished
from rlalign.compare.running.progress_display import ProgressDisplay, plan
from rlalign.compare.running.run_folders import prepare_run, refuse_other_run
from rlalign.compare.running.workers import Workers
from rlalign.compare.study import Cell
from rlalign.escaping.console import PlainConsole, line
from rlalign.training.stop_request import STOPPED, StopRequest

_POLL_SECONDS = 0.3  # longest wait for a run to end before the display is refreshed


def run_cells(
    cells: Sequence[Cell], workers: Workers, console: PlainConsole, stop: StopRequest | None = None
) -> dict[str, str]:
    """Run all unfinished cells and return name -> reason of the cells that failed.

    A stop request makes the running cells save and leave. The same call resumes them.

    Raises:
        UserError: a folder holds a run with other settings.
    """
    stop = StopRequest() if stop is None else stop
    for cell in cells:
        refuse_other_run(cell.folder, cell.config)
    waiting = [cell for cell in cells if not finished(cell.folder)]
    console.print(plan(cells, len(cells) - len(waiting), workers.jobs), soft_wrap=True)
    failed: dict[str, str] = {}
    running: dict[str, Cell] = {}
    with ProgressDisplay(console, cells, waiting, workers.jobs) as display:
        while (waiting or running) and not stop:
            while waiting and len(running) < workers.jobs:
                cell = waiting.pop(0)
                workers.start(cell.name, prepare_run(cell.config))
                running[cell.name] = cell
                display.add(cell)
            for ended in workers.wait(_POLL_SECONDS):
                cell = running.pop(ended.name)
                if stop and ended.status in STOPPED:
                    continue  # the signal reached all processes, and this run stopped before the study asked it to
                if ended.status or not finished(cell.folder):
                    failed[cell.name] = ended.reason or f"not finished (exit status {ended.status})"
                    console.print(line(("failed", "red"), f" {cell.name}: {failed[cell.name]}"), soft_wrap=True)
                display.remove(cell.name, complete=cell.name not in failed)
            display.refresh(running)
        if stop:
            workers.close()
    return failed
