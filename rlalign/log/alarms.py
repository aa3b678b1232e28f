"""The alarms of a run under way: read from its rows, said when they come and go, written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.log.diagnostics import ALARMS, alarms
from rlalign.log.trackers import read_metrics
from rlalign.storage.atomic import write_atomic


class AlarmMonitor:
    """Looks at every logged row. Its state is the run's metrics.jsonl, so a resumed run goes on where it was.

    Args:
        folder: the run folder; report/alarms.json says from which step to which an alarm held, and what it means.
        console: where a new alarm is said, and its end.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.rows: list[Mapping[str, Any]] = []
        self._path = folder / "report" / "alarms.json"
        self._held: dict[str, list[list[int | None]]] = {}  # first and last step of each time; None while it holds

    def resume(self) -> None:
        """Take up the rows that are in metrics.jsonl."""
        self.rows = list(read_metrics(self.folder))
        self._held = {}
        for row in self.rows:
            for name in ALARMS:
                self._note(name, int(row["step"]), bool(row.get(f"alarm/{name}")))
        if self._path.is_file():  # it may tell of steps that are taken anew
            self._write()

    def update(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """alarm/NAME, 0 or 1, after a step with these metrics, for the alarms that they can tell of."""
        self.rows.append({"step": step, **metrics})
        there = alarms(self.rows)
        said = [line for name, holds in there.items() if (line := self._note(name, step, holds))]
        for line in said:
            self.console.print(f"[yellow]alarm[/] {line}", soft_wrap=True)
        if said:
            self._write()
        return {f"alarm/{name}": float(value) for name, value in there.items()}

    def _note(self, name: str, step: int, there: bool) -> str:
        """Keep the beginning or end of an alarm; what is to be said of it, nothing where nothing changed."""
        times = self._held.get(name, [])
        holds = bool(times) and times[-1][1] is None
        if there == holds:
            return ""
        if there:
            self._held[name] = [*times, [step, None]]
            return f"{name}, step {step}: {ALARMS[name].says}" if not times else f"{name} again, step {step}"
        times[-1][1] = step - 1
        return f"{name} over: it held from step {times[-1][0]} to {step - 1}"

    def _write(self) -> None:
        report = {name: {"held": times, "says": ALARMS[name].says} for name, times in self._held.items()}
        write_atomic(self._path, json.dumps(report, indent=1) + "\n")
