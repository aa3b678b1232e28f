"""All cells of a study, as many at once as there is room for, going on from wherever an earlier attempt stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rlalign.compare.records.run_records import finished
from rlalign.compare.running.display import Display, plan
from rlalign.compare.running.workers import Workers, log_of
from rlalign.compare.study import Cell
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import differences
from rlalign.errors import UserError
from rlalign.storage import checkpoint
from rlalign.storage.run_folder import RunLock, read_config
from rlalign.training.stop_request import STOPPED, StopRequest

_LOOK = 0.3  # seconds between two looks at the runs
_PATIENCE = 10.0  # seconds for a dying process to let go of its folder
_SAID = 4  # settings that differ, by name
_FREE = ("resume", "allow_change", "output", "save_every", "keep", "tracking", "device")


def run_cells(
    cells: Sequence[Cell], workers: Workers, console: Console, stop: StopRequest | None = None
) -> dict[str, str]:
    """Run what is not finished yet. Returns name -> reason of the cells that failed.

    A stop asks the cells under way to save and leaves; the same call goes on from there. Raises UserError when a
    folder holds a run with other settings.
    """
    stop = StopRequest() if stop is None else stop
    for cell in cells:
        refuse_other(cell.folder, cell.config)
    waiting = [c for c in cells if not finished(c.folder)]
    console.print(plan(cells, len(cells) - len(waiting), workers.jobs), soft_wrap=True)
    failed: dict[str, str] = {}
    under_way: dict[str, Cell] = {}
    with Display(console, cells, waiting, workers.jobs) as display:
        while (waiting or under_way) and not stop:
            while waiting and len(under_way) < workers.jobs:
                cell = waiting.pop(0)
                workers.start(cell.name, prepared(cell.config))
                under_way[cell.name] = cell
                display.begun(cell)
            for ended in workers.wait(_LOOK):
                cell = under_way.pop(ended.name)
                if stop and ended.status in STOPPED:
                    continue  # the signal was for all processes, and this one was the first to obey
                if ended.status or not finished(cell.folder):
                    failed[cell.name] = ended.reason or f"not finished (exit status {ended.status})"
                    console.print(f"[red]failed[/] {cell.name}: {failed[cell.name]}", soft_wrap=True)
                display.ended(cell.name, whole=cell.name not in failed)
            display.look(under_way)
        if stop:
            workers.close()
    return failed


def refuse_foreign(folder: Path, *marks: str) -> None:
    """Raise UserError for a folder that holds things, none of them the marks of what is to be written there.

    The file that says what is asked may lie there already.
    """
    inside = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(n for n in inside - {"run.lock"} if not n.startswith(".") and not n.endswith(".toml"))
    if foreign and not inside & set(marks):
        raise UserError(f"'{folder}' holds other things ('{foreign[0]}'): choose another --output")


def refuse_other(folder: Path, config: TrainConfig) -> None:
    """Raise UserError when a folder holds a run with other settings than these."""
    if not (folder / "config.json").is_file():
        return
    changed = changes(read_config(folder), config)
    if changed:
        raise UserError(f"'{folder}' holds a run with {changed}: choose another --output")


def changes(old: TrainConfig, new: TrainConfig) -> str:
    """What makes two configurations different experiments, in words; empty where nothing does."""
    changed = {k: v for k, v in differences(old, new).items() if k.split(".")[0] not in _FREE}
    names = sorted(changed, key=lambda k: k.count("."))  # what the others follow from comes first
    words = [f"{k} {changed[k][0]!r}, not {changed[k][1]!r}" for k in names[:_SAID]]
    return "; ".join([*words, *([f"and {len(names) - _SAID} settings more"] if len(names) > _SAID else [])])


def prepared(config: TrainConfig) -> TrainConfig:
    """The configuration to start with: resumed from a checkpoint, or from nothing when there is none."""
    folder = Path(str(config.output))
    if (folder / "config.json").is_file() and checkpoint.complete(folder / "checkpoints"):
        with _own(folder):
            return replace(config, resume=True)
    if folder.is_dir():
        with _own(folder):
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "run.lock":
                    path.unlink()
    log_of(config).unlink(missing_ok=True)
    return config


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """The folder's lock; a process of an attempt that was killed a moment ago gets some seconds to be gone."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock = RunLock(folder).__enter__()
            break
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(_LOOK)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
